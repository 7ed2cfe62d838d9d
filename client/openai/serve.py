"""The server's process: one event loop for uvicorn and the backend, from the first line to the last drained request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import uvicorn

from ingot.client.backend import Backend, ModelCard
from ingot.client.batch.senders import AppSender
from ingot.client.batches.behind import BehindBackend
from ingot.client.batches.service import CONCURRENCY, BatchService
from ingot.client.openai.app import create_app
from ingot.client.openai.gate import GateOptions
from ingot.errors import IngotError

GRACE_SECONDS = 3  # for the last bytes of ended answers to reach their clients
SIGNALS = (signal.SIGINT, signal.SIGTERM)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    host: str = "127.0.0.1"
    port: int = 8000
    drain_seconds: float = 30.0
    log_level: str = "info"
    gate: GateOptions = field(default_factory=GateOptions)
    batch_dir: Path | None = None  # of /v1/files and /v1/batches; without one there are none
    batch_concurrency: int = CONCURRENCY


class Server(uvicorn.Server):
    """uvicorn without its own signal handling: on SIGTERM requests are drained first, and only then is the door closed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(backend: Backend, options: ServeOptions) -> None:
    """Returns after a signal, when running requests have ended. Raises what the backend's start raises."""
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
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
    config = uvicorn.Config(
        create_app(backend, options.gate, batches),
        log_level=options.log_level,
        log_config=None,
        access_log=options.log_level == "debug",
        lifespan="off",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve([sock]))
    cards = await backend.models()
    names = ", ".join(card.name for card in cards)
    host, port = sock.getsockname()[:2]
    click.echo(f"ingot serves {names} at http://{host}:{port}/v1", err=True)
    click.echo(f"status page: http://{host}:{port}/", err=True)
    for card in cards:
        if card.sampling:
            click.echo(sampling_line(card), err=True)
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
