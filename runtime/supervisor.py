"""The parent's side of the executor: starts its process, notices its death at once, starts it again. Knows no text and no HTTP."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from ingot.errors import ExecutorDiedError, IngotError, UnavailableError
from ingot.runtime.logs import LogFormat
from ingot.runtime.messages import ExecutorFailed, FromExecutor, Ready, Stats, ToExecutor
from ingot.runtime.streams import as_error
from ingot.runtime.wire import FrameReader, replies_reader, to_frame
from ingot.runtime.worker import DEFAULT_LOADER

TICK_SECONDS = 0.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisorOptions:
    loader: str = DEFAULT_LOADER
    log_level: str = "WARNING"
    log_format: LogFormat = "text"
    load_timeout: float = 1800.0  # seconds an engine may take to load
    heartbeat_timeout: float = 15.0  # seconds without a word before the process counts as hung
    step_timeout: float = 600.0  # seconds a step may take while requests run
    first_backoff: float = 0.2  # seconds before the first restart; doubles up to max_backoff
    max_backoff: float = 30.0
    stable_after: float = 60.0  # seconds of service that put the backoff back to its first value


class Connection(asyncio.Protocol):
    """The socket to one life of the executor."""

    def __init__(self, on_messages: Callable[[list[FromExecutor]], None]) -> None:
        self._on_messages = on_messages
        self._reader: FrameReader[FromExecutor] = replies_reader()
        self._transport: asyncio.WriteTransport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._reader.feed(data)
        except msgspec.MsgspecError:
            logger.exception("the executor sent what is no message")
            self.close()
        else:
            self._on_messages(messages)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def send(self, message: ToExecutor) -> None:
        if self._transport is not None:
            self._transport.write(to_frame([message]))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Supervisor:
    """Keeps one executor process alive.

    `on_messages` gets what the executor says, batch by batch; `on_down` is called once for each death with the error
    that every request in flight must end with.
    """

    def __init__(
        self,
        engine: Path,
        *,
        on_messages: Callable[[Sequence[FromExecutor]], None],
        on_down: Callable[[IngotError], None],
        options: SupervisorOptions | None = None,
    ) -> None:
        self._engine = engine
        self._on_messages = on_messages
        self._on_down = on_down
        self._options = options or SupervisorOptions()
        self._connection: Connection | None = None
        self._loaded: asyncio.Future[None] | None = None
        self._life: asyncio.Task[None] | None = None
        self._last_words: ExecutorFailed | None = None
        self._quiet_ticks = 0
        self._stuck_ticks = 0
        self.pid: int | None = None
        self.stats: Stats | None = None
        self.ready = False
        self.restarts = 0
        self.detail = "not started"

    async def start(self) -> None:
        """Returns when the engine is loaded. Raises what the executor said if its first load fails."""
        self._loaded = asyncio.get_running_loop().create_future()
        self._life = asyncio.create_task(self._live(), name="supervisor")
        try:
            await self._loaded
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        if self._life is not None:
            self._life.cancel()
            with suppress(asyncio.CancelledError):
                await self._life
            self._life = None
        self.ready, self.detail = False, "stopped"

    def send(self, message: ToExecutor) -> None:
        """Raises UnavailableError while there is no loaded executor."""
        if not self.ready or self._connection is None:
            raise UnavailableError(
                f"The executor is not ready: {self.detail}.", mend="Try again shortly; /health says when."
            )
        self._connection.send(message)

    async def _live(self) -> None:
        """One life after the other, with a growing pause between short ones."""
        loop = asyncio.get_running_loop()
        backoff = self._options.first_backoff
        while True:
            began = loop.time()
            error = await self._one_life()
            if self._loaded is not None and not self._loaded.done():
                self._loaded.set_exception(error)
                return
            if loop.time() - began > self._options.stable_after:
                backoff = self._options.first_backoff
            self.detail = f"restarting in {backoff:.1f} s: {error.message}"
            logger.error("%s Restarting in %.1f s.", error.message, backoff)
            self._on_down(error)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, self._options.max_backoff)
            self.restarts += 1

    async def _one_life(self) -> IngotError:
        """From fork to death; the death's reason is returned."""
        self._last_words, self._quiet_ticks, self._stuck_ticks = None, 0, 0
        self.detail = "loading the engine"
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(*self._command(theirs), pass_fds=[theirs.fileno()])
        self.pid = process.pid
        reason = "its process ended"
        died = asyncio.create_task(process.wait())
        watch = asyncio.create_task(self._watch())
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self._take), sock=ours)
        self._connection = connection
        try:
            ends: set[asyncio.Future[Any]] = {died, connection.closed, watch}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                reason = watch.result()
        finally:
            self.ready, self._connection, self.pid = False, None, None
            watch.cancel()
            connection.close()
            if not died.done():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)  # process.kill() may reap it, and with it how it ended
            await died
        return self._death(reason, process.returncode)

    def _command(self, theirs: socket.socket) -> list[str]:
        options = self._options
        worker = [
            sys.executable,
            "-m",
            "ingot.runtime.worker",
            "--engine",
            str(self._engine),
            "--loader",
            options.loader,
        ]
        logs = ["--log-level", options.log_level, "--log-format", options.log_format]
        return [*worker, "--socket-fd", str(theirs.fileno()), *logs]

    def _take(self, messages: list[FromExecutor]) -> None:
        self._quiet_ticks = 0
        for message in messages:
            if isinstance(message, Stats):
                if self.stats is None or message.steps != self.stats.steps:
                    self._stuck_ticks = 0
                self.stats = message
            elif isinstance(message, Ready):
                self.stats, self.ready, self.detail = message.stats, True, "ready"
                if self._loaded is not None and not self._loaded.done():
                    self._loaded.set_result(None)
                logger.info("the engine was loaded in %.1f s", message.load_seconds)
            elif isinstance(message, ExecutorFailed):
                self._last_words = message
        self._on_messages(messages)

    async def _watch(self) -> str:
        """Returns why the process must be killed. Counts its own ticks: a parent that was suspended blames nobody."""
        options, loading_ticks = self._options, 0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if not self.ready:
                loading_ticks += 1
                if loading_ticks * TICK_SECONDS > options.load_timeout:
                    return f"the engine did not load within {options.load_timeout:.0f} s"
                continue
            self._quiet_ticks += 1
            busy = self.stats is not None and self.stats.running + self.stats.waiting > 0
            self._stuck_ticks = self._stuck_ticks + 1 if busy else 0
            if self._quiet_ticks * TICK_SECONDS > options.heartbeat_timeout:
                return f"it sent nothing for {options.heartbeat_timeout:.0f} s"
            if self._stuck_ticks * TICK_SECONDS > options.step_timeout:
                return f"a step took more than {options.step_timeout:.0f} s"

    def _death(self, reason: str, returncode: int | None) -> IngotError:
        if self._last_words is not None:
            return as_error(self._last_words)
        how = f"signal {-returncode}" if returncode is not None and returncode < 0 else f"exit status {returncode}"
        return ExecutorDiedError(
            f"The executor died: {reason} ({how}).", mend="The server restarts it; send the request again."
        )
