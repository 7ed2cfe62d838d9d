"""The command line of the client room: `ingot serve`. Turns words into options; imports the rest when it runs."""

from __future__ import annotations

from pathlib import Path

import click

LOG_LEVELS = click.Choice(["debug", "info", "warning", "error"])


@click.command()
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option(
    "--served-model-name", metavar="NAME", help="The model's name in requests; the engine's own if not given."
)
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    metavar="KEY",
    envvar="INGOT_API_KEY",
    help="Guards every route; repeatable.",
)
@click.option("--api-key-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Keys, one a line.")
@click.option("--open-health", is_flag=True, help="Lets /health and /ping answer without a key.")
@click.option(
    "--max-queue", default=1024, show_default=True, type=click.IntRange(0), help="Sequences that may wait before 429."
)
@click.option(
    "--drain-seconds",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0),
    help="For running requests on SIGTERM.",
)
@click.option("--max-body-mib", default=32, show_default=True, type=click.IntRange(1), help="Largest request body.")
@click.option("--log-level", default="info", show_default=True, type=LOG_LEVELS, help="What is logged, to stderr.")
def serve(
    engine: Path,
    host: str,
    port: int,
    served_model_name: str | None,
    api_keys: tuple[str, ...],
    api_key_file: Path | None,
    open_health: bool,
    max_queue: int,
    drain_seconds: float,
    max_body_mib: int,
    log_level: str,
) -> None:
    """Serve ENGINE over the OpenAI API.

    SIGTERM or Ctrl-C lets running requests finish, then stops.
    """
    from ingot.client.embedded import EmbeddedBackend, EmbeddedOptions
    from ingot.client.openai.gate import GateOptions
    from ingot.client.openai.serve import ServeOptions
    from ingot.client.openai.serve import serve as run
    from ingot.runtime.supervisor import SupervisorOptions

    backend = EmbeddedBackend(
        engine,
        EmbeddedOptions(
            served_model_name=served_model_name, max_queue=max_queue, supervisor=SupervisorOptions(log_level=log_level)
        ),
    )
    keys = (*api_keys, *keys_of(api_key_file))
    if not all(keys):
        raise click.BadParameter("a key is empty", param_hint="--api-key")
    if api_key_file is not None and not keys:
        raise click.BadParameter("the file holds no key", param_hint="--api-key-file")
    gate = GateOptions(api_keys=keys, open_health=open_health, max_body_bytes=max_body_mib << 20)
    run(backend, ServeOptions(host=host, port=port, drain_seconds=drain_seconds, log_level=log_level, gate=gate))


def keys_of(path: Path | None) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if line.strip()] if path else []
