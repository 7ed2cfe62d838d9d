"""The flags of `ingot serve` that are about callers, not about models: address, TLS, keys, limits, logs. Words to options."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingot.client.keys import NOTATION, read_keys
from ingot.errors import IngotError
from ingot.runtime.grammars.check import MAX_DEPTH
from ingot.runtime.logs import LogFormat
from ingot.runtime.validate import MAX_LOGPROBS, MAX_N, MAX_STOPS

if TYPE_CHECKING:
    from ingot.client.front import FrontOptions
    from ingot.client.openai.serve import ServeOptions, TlsFiles

LOG_LEVELS = click.Choice(["debug", "info", "warning", "error"])
PEM = click.Path(path_type=Path, exists=True, dir_okay=False)
SECONDS = click.FloatRange(0, min_open=True)
COUNT = click.IntRange(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerFlags:
    """As they were typed."""

    host: str
    port: int
    tls_cert: Path | None
    tls_key: Path | None
    tls_ca: Path | None
    api_keys: tuple[str, ...]
    api_key_file: Path | None
    key_rpm: int | None
    key_concurrent: int | None
    open_health: bool
    max_concurrent: int
    max_connections: int
    max_body_mib: int
    max_header_kib: int
    max_prompt_tokens: int | None
    max_n: int
    max_top_logprobs: int
    max_stop_strings: int
    max_schema_kib: int
    max_schema_depth: int
    body_seconds: float
    request_seconds: float
    header_seconds: float
    stall_seconds: float
    drain_seconds: float
    log_level: str
    log_format: LogFormat
    log_prompts: bool
    tgi_metrics: bool
    otlp_traces_endpoint: str | None


def shown(*names: str, default: Any, **attributes: Any) -> Any:
    return click.option(*names, default=default, show_default=True, **attributes)


FLAGS = (
    shown("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 for all."),
    shown("--port", default=8000, type=click.IntRange(0, 65535), help="0 takes a free one."),
    click.option("--tls-cert", type=PEM, help="Serves HTTPS with this certificate and its chain."),
    click.option("--tls-key", type=PEM, help="The certificate's key."),
    click.option("--tls-ca", type=PEM, help="Asks callers for a certificate that this authority signed."),
    click.option(
        "--api-key",
        "api_keys",
        multiple=True,
        metavar="KEY",
        envvar="INGOT_API_KEY",
        help="Guards every route; repeatable; NAME=KEY gives it a name in logs.",
    ),
    click.option("--api-key-file", type=PEM, help="Keys, one a line: NAME=KEY rpm=600 concurrent=8, or less of it."),
    click.option("--key-rpm", type=COUNT, help="POST requests a minute of a key that names no rpm of its own."),
    click.option("--key-concurrent", type=COUNT, help="POST requests at a time of a key that names no number."),
    click.option("--open-health", is_flag=True, help="Lets /health and /ping answer without a key."),
    shown("--max-concurrent", default=2048, type=COUNT, help="POST requests at a time, of all callers, before 429."),
    shown("--max-connections", default=4096, type=COUNT, help="Open connections; more are closed at once."),
    shown("--max-body-mib", default=32, type=COUNT, help="Largest request body."),
    shown("--max-header-kib", default=16, type=COUNT, help="Largest headers of a request."),
    click.option("--max-prompt-tokens", type=COUNT, help="Longest prompt; what the engine holds if not given."),
    shown("--max-n", default=MAX_N, type=click.IntRange(1, MAX_N), help="Answers to one prompt."),
    shown("--max-top-logprobs", default=MAX_LOGPROBS, type=click.IntRange(0, MAX_LOGPROBS), help="For each token."),
    shown("--max-stop-strings", default=MAX_STOPS, type=click.IntRange(0, MAX_STOPS), help="Of one request."),
    shown("--max-schema-kib", default=64, type=click.IntRange(1, 64), help="Largest schema, expression or grammar."),
    shown("--max-schema-depth", default=MAX_DEPTH, type=click.IntRange(1, MAX_DEPTH), help="Levels of a schema."),
    shown("--body-seconds", default=60.0, type=SECONDS, help="For a request's body to arrive."),
    shown("--request-seconds", default=3600.0, type=SECONDS, help="From a request's arrival to its last token."),
    shown("--header-seconds", default=20.0, type=SECONDS, help="For a request's headers to arrive."),
    shown("--stall-seconds", default=60.0, type=SECONDS, help="Until a reader that takes nothing is cut."),
    shown("--drain-seconds", default=30.0, type=click.FloatRange(0), help="For running requests on SIGTERM."),
    shown("--log-level", default="info", type=LOG_LEVELS, help="What is logged, to stderr."),
    shown(
        "--log-format",
        default="text",
        type=click.Choice(["text", "json"]),
        help="json: an object a line, one for each request too, with its id and its key's name.",
    ),
    click.option("--log-prompts", is_flag=True, help="Logs what is asked, which is logged nowhere else."),
    click.option("--tgi-metrics", is_flag=True, help="Says at /metrics what TGI has too under TGI's names as well."),
    click.option(
        "--otlp-traces-endpoint",
        metavar="URL",
        help="Sends a trace of each request there, as http://localhost:4318/v1/traces; needs ingot[otel].",
    ),
)


def server_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Decorates a command with FLAGS, which reach it as one `server: ServerFlags`."""

    @functools.wraps(command)
    def run(**words: Any) -> None:
        own = {field.name: words.pop(field.name) for field in fields(ServerFlags)}
        command(**words, server=ServerFlags(**own))

    for flag in reversed(FLAGS):
        run = flag(run)
    return run


def serve_options(flags: ServerFlags) -> ServeOptions:
    """Raises click.UsageError where flags do not fit together, IngotError where a key cannot be read."""
    from ingot.client.connection import Patience
    from ingot.client.openai.gate import GateOptions
    from ingot.client.openai.serve import ServeOptions

    lines = [*flags.api_keys, *key_lines(flags.api_key_file)]
    if not lines and (flags.key_rpm or flags.key_concurrent):
        raise click.UsageError("--key-rpm and --key-concurrent are limits of keys: give --api-key or --api-key-file")
    gate = GateOptions(
        api_keys=read_keys(lines, requests_per_minute=flags.key_rpm, concurrent=flags.key_concurrent),
        open_health=flags.open_health,
        max_body_bytes=flags.max_body_mib << 20,
        max_header_bytes=flags.max_header_kib << 10,
        max_concurrent=flags.max_concurrent,
        body_seconds=flags.body_seconds,
        access_level=logging.INFO if flags.log_format == "json" else logging.DEBUG,
    )
    patience = Patience(
        header_seconds=flags.header_seconds,
        stall_seconds=flags.stall_seconds,
        max_connections=flags.max_connections,
    )
    return ServeOptions(
        host=flags.host,
        port=flags.port,
        drain_seconds=flags.drain_seconds,
        log_level=flags.log_level,
        log_format=flags.log_format,
        gate=gate,
        patience=patience,
        tls=tls_files(flags),
        front=front_options(flags),
    )


def front_options(flags: ServerFlags) -> FrontOptions:
    from ingot.client.front import FrontOptions, RequestLimits

    limits = RequestLimits(
        n=flags.max_n,
        top_logprobs=flags.max_top_logprobs,
        stop_strings=flags.max_stop_strings,
        schema_chars=flags.max_schema_kib << 10,
        schema_depth=flags.max_schema_depth,
    )
    return FrontOptions(
        limits=limits,
        log_prompts=flags.log_prompts,
        tgi_metrics=flags.tgi_metrics,
        traces_endpoint=flags.otlp_traces_endpoint,
    )


def tls_files(flags: ServerFlags) -> TlsFiles | None:
    from ingot.client.openai.serve import TlsFiles

    if flags.tls_cert is None and flags.tls_key is None and flags.tls_ca is None:
        return None
    if flags.tls_cert is None or flags.tls_key is None:
        raise click.UsageError("TLS needs both --tls-cert and --tls-key")
    return TlsFiles(cert=flags.tls_cert, key=flags.tls_key, ca=flags.tls_ca)


def key_lines(path: Path | None) -> list[str]:
    """Raises IngotError for a file without keys."""
    if path is None:
        return []
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise IngotError(f"{path} holds no key.", mend=NOTATION)
    return lines
