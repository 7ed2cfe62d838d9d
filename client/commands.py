"""The command line of the client room: `ingot serve` and `ingot ask`. Turns words into options; imports the rest when run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.client.openai.reasoning import MARKS
from ingot.client.openai.tool_parsers import NOTATIONS
from ingot.client.serve_flags import PEM, ServerFlags, serve_options, server_flags

if TYPE_CHECKING:
    from ingot.client.ask_triton import TritonChat
    from ingot.client.backend import Backend
    from ingot.client.grpc_wire import ClientOptions


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
@click.option("--triton-tls", is_flag=True, help="Connects to it over TLS.")
@click.option("--triton-ca", type=PEM, help="The authority that signed its certificate; the system's if not given.")
@click.option("--triton-cert", type=PEM, help="A certificate to show to it, where it asks for one.")
@click.option("--triton-key", type=PEM, help="That certificate's key.")
@click.option(
    "--served-model-name", metavar="NAME", help="The model's name in requests; the engine's own if not given."
)
@click.option(
    "--max-queue", default=1024, show_default=True, type=click.IntRange(0), help="Sequences that may wait before 429."
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
@click.option("--batch-dir", type=click.Path(path_type=Path, file_okay=False), help="Keeps /v1/files and /v1/batches.")
@click.option(
    "--batch-concurrency",
    default=8,
    show_default=True,
    type=click.IntRange(1, 1024),
    help="Requests of batches at once; keep it below the engine's --max-num-seqs.",
)
@server_flags
def serve(
    engine: Path | None,
    triton: str | None,
    models: tuple[str, ...],
    routes: Path | None,
    admin_key: str | None,
    triton_tls: bool,
    triton_ca: Path | None,
    triton_cert: Path | None,
    triton_key: Path | None,
    served_model_name: str | None,
    max_queue: int,
    tool_parser: str | None,
    generation_config: str,
    reasoning_parser: str | None,
    batch_dir: Path | None,
    batch_concurrency: int,
    server: ServerFlags,
) -> None:
    """Serve ENGINE, or the models of a Triton server, over the OpenAI API.

    SIGTERM or Ctrl-C lets running requests finish, then stops.
    """
    from ingot.client.openai.serve import serve as run

    if (engine is None) == (triton is None):
        raise click.UsageError("give either ENGINE or --triton HOST:PORT")
    if triton is not None and server.max_prompt_tokens is not None:
        raise click.UsageError("--max-prompt-tokens is for ENGINE; Triton's models have their own lengths")
    options = replace(serve_options(server), batch_dir=batch_dir, batch_concurrency=batch_concurrency)
    model = ModelOptions(tool_parser, reasoning_parser, generation_config == "auto")
    if triton is None:
        run(embedded_backend(Path(engine or ""), served_model_name, max_queue, server, model), options)
        return
    client = triton_connection(server.request_seconds, admin_key, triton_tls, triton_ca, triton_cert, triton_key)
    run(triton_backend(triton, models, routes, client, model), options)


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
    server: ServerFlags,
    model: ModelOptions,
) -> Backend:
    from ingot.client.embedded import EmbeddedBackend, EmbeddedOptions
    from ingot.runtime.supervisor import SupervisorOptions

    supervisor = SupervisorOptions(log_level=server.log_level, log_format=server.log_format)
    options = EmbeddedOptions(
        served_model_name=served_model_name,
        tool_parser=model.tool_parser,
        reasoning_parser=model.reasoning_parser,
        generation_config=model.generation_config,
        max_queue=max_queue,
        max_prompt_tokens=server.max_prompt_tokens,
        request_seconds=server.request_seconds,
        supervisor=supervisor,
    )
    return EmbeddedBackend(engine, options)


def triton_connection(
    timeout: float, admin_key: str | None, tls: bool, ca: Path | None, cert: Path | None, key: Path | None
) -> ClientOptions:
    import msgspec

    from ingot.client.triton_backend import SERVING

    root, certificate, private_key = (path.read_bytes() if path else None for path in (ca, cert, key))
    return msgspec.structs.replace(
        SERVING,
        timeout=timeout,
        admin_key=admin_key,
        tls=tls,
        root_certificates=root,
        certificate=certificate,
        private_key=private_key,
    )


def triton_backend(
    address: str,
    models: tuple[str, ...],
    routes: Path | None,
    client: ClientOptions,
    model: ModelOptions,
) -> Backend:
    from ingot.client.triton_backend import TritonBackend, TritonOptions

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
