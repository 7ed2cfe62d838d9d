"""The command line of the client room: `ingot serve` and `ingot ask`. Turns words into options; imports the rest when run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.client.openai.reasoning import MARKS
from ingot.client.openai.tool_parsers import NOTATIONS

if TYPE_CHECKING:
    from ingot.client.ask_triton import TritonChat
    from ingot.client.backend import Backend

LOG_LEVELS = click.Choice(["debug", "info", "warning", "error"])


@click.command()
@click.argument("engine", required=False, type=click.Path(path_type=Path))
@click.option("--triton", metavar="HOST:PORT", help="Serves the models of a Triton server, by its gRPC port, instead.")
@click.option(
    "--model", "models", multiple=True, metavar="NAME", help="A model of that server; all that it lists if not given."
)
@click.option(
    "--routes", type=click.Path(path_type=Path, dir_okay=False), help="Its labels and shares; read again on change."
)
@click.option(
    "--admin-key", envvar="INGOT_ADMIN_KEY", metavar="KEY", help="Its admin key; needed where no --model is given."
)
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
@click.option(
    "--tool-call-parser",
    "tool_parser",
    type=click.Choice(sorted(NOTATIONS)),
    help="How the model writes tool calls; guessed from its chat template if not given.",
)
@click.option(
    "--generation-config",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "none"]),
    help="auto: the checkpoint's generation_config.json samples where a request does not say how.",
)
@click.option("--reasoning-parser", type=click.Choice(sorted(MARKS)), help="How the model marks its thoughts.")
@click.option("--max-body-mib", default=32, show_default=True, type=click.IntRange(1), help="Largest request body.")
@click.option("--batch-dir", type=click.Path(path_type=Path, file_okay=False), help="Keeps /v1/files and /v1/batches.")
@click.option(
    "--batch-concurrency",
    default=8,
    show_default=True,
    type=click.IntRange(1, 1024),
    help="Requests of batches at once; keep it below the engine's --max-num-seqs.",
)
@click.option("--log-level", default="info", show_default=True, type=LOG_LEVELS, help="What is logged, to stderr.")
def serve(
    engine: Path | None,
    triton: str | None,
    models: tuple[str, ...],
    routes: Path | None,
    admin_key: str | None,
    host: str,
    port: int,
    served_model_name: str | None,
    api_keys: tuple[str, ...],
    api_key_file: Path | None,
    open_health: bool,
    max_queue: int,
    drain_seconds: float,
    tool_parser: str | None,
    generation_config: str,
    reasoning_parser: str | None,
    max_body_mib: int,
    batch_dir: Path | None,
    batch_concurrency: int,
    log_level: str,
) -> None:
    """Serve ENGINE, or the models of a Triton server, over the OpenAI API.

    SIGTERM or Ctrl-C lets running requests finish, then stops.
    """
    from ingot.client.openai.gate import GateOptions
    from ingot.client.openai.serve import ServeOptions
    from ingot.client.openai.serve import serve as run

    if (engine is None) == (triton is None):
        raise click.UsageError("give either ENGINE or --triton HOST:PORT")
    model = ModelOptions(tool_parser, reasoning_parser, generation_config == "auto")
    backend = (
        triton_backend(triton, models, routes, admin_key, model)
        if triton is not None
        else embedded_backend(Path(engine or ""), served_model_name, max_queue, log_level, model)
    )
    keys = (*api_keys, *keys_of(api_key_file))
    if not all(keys):
        raise click.BadParameter("a key is empty", param_hint="--api-key")
    if api_key_file is not None and not keys:
        raise click.BadParameter("the file holds no key", param_hint="--api-key-file")
    gate = GateOptions(api_keys=keys, open_health=open_health, max_body_bytes=max_body_mib << 20)
    run(
        backend,
        ServeOptions(
            host=host,
            port=port,
            drain_seconds=drain_seconds,
            log_level=log_level,
            gate=gate,
            batch_dir=batch_dir,
            batch_concurrency=batch_concurrency,
        ),
    )


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How a model is asked and read, on either backend."""

    tool_parser: str | None
    reasoning_parser: str | None
    generation_config: bool


def embedded_backend(
    engine: Path,
    served_model_name: str | None,
    max_queue: int,
    log_level: str,
    model: ModelOptions,
) -> Backend:
    from ingot.client.embedded import EmbeddedBackend, EmbeddedOptions
    from ingot.runtime.supervisor import SupervisorOptions

    supervisor = SupervisorOptions(log_level=log_level)
    options = EmbeddedOptions(
        served_model_name=served_model_name,
        tool_parser=model.tool_parser,
        reasoning_parser=model.reasoning_parser,
        generation_config=model.generation_config,
        max_queue=max_queue,
        supervisor=supervisor,
    )
    return EmbeddedBackend(engine, options)


def triton_backend(
    address: str,
    models: tuple[str, ...],
    routes: Path | None,
    admin_key: str | None,
    model: ModelOptions,
) -> Backend:
    import msgspec

    from ingot.client.triton_backend import SERVING, TritonBackend, TritonOptions

    client = msgspec.structs.replace(SERVING, admin_key=admin_key)
    options = TritonOptions(
        address=address,
        models=models,
        routes=routes,
        client=client,
        tool_parser=model.tool_parser,
        reasoning_parser=model.reasoning_parser,
        generation_config=model.generation_config,
    )
    return TritonBackend(options)


def keys_of(path: Path | None) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if line.strip()] if path else []


@click.command()
@click.argument("question", required=False)
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Where the server is.")
@click.option("--triton", metavar="HOST:PORT", help="Asks a Triton server over gRPC instead; needs --model.")
@click.option("--api-key", envvar="INGOT_API_KEY", metavar="KEY", help="The server's key.")
@click.option("--model", help="The server's first model if not given.")
@click.option("--system", metavar="TEXT", help="A system message to begin with.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 always takes the likeliest token.")
@click.option("--max-tokens", type=click.IntRange(1), help="Longest answer.")
@click.option("--seed", type=int, help="The same seed gives the same answer.")
def ask(
    question: str | None,
    url: str,
    triton: str | None,
    api_key: str | None,
    model: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    seed: int | None,
) -> None:
    """Ask a running server QUESTION; without one, chat until end of input.

    The answer goes to stdout as it comes, the figures to stderr.
    """
    from ingot.client.ask import Answer, Chat

    chat: Chat | TritonChat
    if triton:
        from ingot.client.ask_triton import TritonChat

        chat = TritonChat(triton, model=model, system=system)
    else:
        chat = Chat(url, api_key=api_key, model=model, system=system)
    for one in typed_questions() if question is None else iter([question]):
        answer = Answer()
        for piece in chat.ask(one, answer, temperature=temperature, max_tokens=max_tokens, seed=seed):
            click.echo(piece, nl=False)
        click.echo()
        figures = (
            f"first token after {answer.first_token_seconds * 1000:.0f} ms, {answer.tokens_per_second:.0f} tokens/s"
        )
        click.secho(f"{answer.completion_tokens} tokens, {figures}", dim=True, err=True)


def typed_questions() -> Iterator[str]:
    """Lines of standard input, prompted for where a person types them."""
    while True:
        if sys.stdin.isatty():
            click.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
