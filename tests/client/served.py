"""A real uvicorn server on loopback, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from ingot.client.backend import Backend
from ingot.client.batch.senders import AppSender
from ingot.client.batches.behind import BehindBackend
from ingot.client.batches.service import BatchService
from ingot.client.front import Front
from ingot.client.openai.app import create_app
from ingot.client.openai.gate import GateOptions
from ingot.client.openai.serve import ServeOptions, server_config


@contextmanager
def served(
    backend: Backend, options: GateOptions | ServeOptions | None = None, batches: BatchService | None = None
) -> Iterator[str]:
    """Yields the base URL, without /v1."""
    if not isinstance(options, ServeOptions):
        options = ServeOptions(gate=options or GateOptions(), log_level="warning")
    backend = Front(backend, options.front)
    config = server_config(backend, options, batches)
    config.port = 0
    server = uvicorn.Server(config)
    failures: list[BaseException] = []

    async def serve() -> None:
        await backend.start()
        if batches is not None:
            batches.start(AppSender(create_app(BehindBackend(backend))))
        try:
            await server.serve()
        finally:
            if batches is not None:
                await batches.stop()
            await backend.stop(0)

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=run, name="server")
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.005)
    if failures:
        raise failures[0]
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"{'https' if options.tls else 'http'}://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
