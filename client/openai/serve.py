"""The server's process: one event loop for uvicorn and the backend, from the first line to the last drained request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import uvicorn

from ingot.client.backend import Backend, ModelCard
from ingot.client.batch.senders import AppSender
from ingot.client.batches.behind import BehindBackend
from ingot.client.batches.service import CONCURRENCY, BatchService
from ingot.client.connection import Connection, Patience
from ingot.client.front import Front, FrontOptions
from ingot.client.openai.app import create_app
from ingot.client.openai.gate import GateOptions
from ingot.errors import IngotError
from ingot.runtime.logs import LogFormat, set_up_logs

SPARE_FILES = 256  # descriptors beside those of connections
GRACE_SECONDS = 3  # for the last bytes of ended answers to reach their clients
SIGNALS = (signal.SIGINT, signal.SIGTERM)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TlsFiles:
    """PEM files."""

    cert: Path  # with the chain that leads to its issuer
    key: Path
    ca: Path | None = None  # whoever calls must show a certificate of its


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    host: str = "127.0.0.1"
    port: int = 8000
    drain_seconds: float = 30.0
    log_level: str = "info"
    log_format: LogFormat = "text"
    gate: GateOptions = field(default_factory=GateOptions)
    patience: Patience = field(default_factory=Patience)
    tls: TlsFiles | None = None
    front: FrontOptions = field(default_factory=FrontOptions)
    batch_dir: Path | None = None  # of /v1/files and /v1/batches; without one there are none
    batch_concurrency: int = CONCURRENCY


class Server(uvicorn.Server):
    """uvicorn without its own signal handling: on SIGTERM requests are drained first, and only then is the door closed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(backend: Backend, options: ServeOptions) -> None:
    """Returns after a signal, when running requests have ended. Raises what the backend's start raises."""
    set_up_logs(options.log_level, options.log_format, process="server")
    check_tls(options.tls)
    backend = Front(backend, options.front)
    allow_files(options.patience.max_connections + SPARE_FILES)
    asyncio.run(serve_until_signal(backend, options))


async def serve_until_signal(backend: Backend, options: ServeOptions) -> None:
    sock = bind(options)  # before the engine loads: a port that is taken is said at once, and so is a folder
    batches = BatchService(options.batch_dir, concurrency=options.batch_concurrency) if options.batch_dir else None
    signals: asyncio.Queue[None] = asyncio.Queue()
    for name in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(name, signals.put_nowait, None)
    with sock:
        starting = asyncio.create_task(backend.start())
        if await first_of(starting, signals):
            await run_server(backend, options, sock, signals, batches)


async def run_server(
    backend: Backend,
    options: ServeOptions,
    sock: socket.socket,
    signals: asyncio.Queue[None],
    batches: BatchService | None = None,
) -> None:
    server = Server(server_config(backend, options, batches))
    serving = asyncio.create_task(server.serve([sock]))
    cards = await backend.models()
    names = ", ".join(card.name for card in cards)
    host, port = sock.getsockname()[:2]
    at = f"{'https' if options.tls else 'http'}://{host}:{port}"
    announce(f"ingot serves {names} at {at}/v1", options)
    announce(f"status page: {at}/", options)
    for card in cards:
        if card.sampling:
            announce(sampling_line(card), options)
    if batches is not None:
        batches.start(AppSender(create_app(BehindBackend(backend))))
    await asyncio.wait(
        {serving, signal_task := asyncio.create_task(signals.get())}, return_when=asyncio.FIRST_COMPLETED
    )
    signal_task.cancel()
    if batches is not None:
        await batches.stop()  # at once: they go on when the server is back
    logger.info("stopping: running requests get %.0f s; a second signal ends them now", options.drain_seconds)
    if not await first_of(asyncio.create_task(backend.stop(options.drain_seconds)), signals):
        await backend.stop(0)
    server.should_exit = True
    await serving


def server_config(backend: Backend, options: ServeOptions, batches: BatchService | None = None) -> uvicorn.Config:
    tls = options.tls
    return uvicorn.Config(
        create_app(backend, options.gate, batches),
        http=cast(Any, partial(Connection, patience=options.patience)),  # called, whatever uvicorn's annotation says
        h11_max_incomplete_event_size=options.gate.max_header_bytes,
        log_level=options.log_level,
        log_config=None,
        access_log=False,  # the gate writes its own
        lifespan="off",
        timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_certfile=tls.cert if tls else None,
        ssl_keyfile=tls.key if tls else None,
        ssl_ca_certs=str(tls.ca) if tls and tls.ca else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if tls and tls.ca else ssl.CERT_NONE,
    )


def announce(sentence: str, options: ServeOptions) -> None:
    """Where the server is: said at every log level, for whoever started it reads this."""
    if options.log_format == "json":
        record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, sentence, (), None)
        logging.getLogger().handle(record)
    else:
        click.echo(sentence, err=True)


def check_tls(tls: TlsFiles | None) -> None:
    """Raises IngotError where the files are not a certificate and its key."""
    if tls is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.cert, tls.key)
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
    except (OSError, ssl.SSLError) as error:
        raise IngotError(
            f"The TLS files cannot be used: {error}.", mend="Give PEM files: a certificate and the key it belongs to."
        ) from error


def allow_files(wanted: int) -> None:
    """Raises this process's limit of open files towards what its administrator allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def sampling_line(card: ModelCard) -> str:
    told = ", ".join(f"{name} {value:g}" for name, value in card.sampling.items())
    return f"{card.name} samples with {told} where a request does not say (generation_config.json)"


async def first_of(work: asyncio.Task[None], signals: asyncio.Queue[None]) -> bool:
    """True when the work is done; False when a signal came first, and the work was cancelled."""
    waiting = asyncio.create_task(signals.get())
    await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if work.done():
        work.result()
        return True
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    return False


def bind(options: ServeOptions) -> socket.socket:
    """Raises IngotError where the address cannot be had."""
    try:
        family = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((options.host, options.port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        mend = "Choose another with --host and --port."
        raise IngotError(f"Cannot listen on {options.host}:{options.port}: {error}.", mend=mend) from error
