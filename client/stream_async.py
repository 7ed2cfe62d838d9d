"""One request on one gRPC stream, for asyncio. Keeps every promise of client/stream_sync.py, which says why.

gRPC cuts a stream whose reading task is cancelled, so a task of its own reads it; whoever iterates may be cancelled freely.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from ingot.client import grpc_wire as wire
from ingot.client.grpc_wire import ClientOptions
from ingot.client.pulse import AsyncPulse
from ingot.errors import ExecutorDiedError, IngotError
from ingot.runtime.calls import Call, Reply
from ingot.runtime.request import Chunk


class AsyncStream:
    """Iterates over Chunks. As a context manager, aborts on the way out what has not ended."""

    def __init__(
        self,
        stub: Any,
        options: ClientOptions,
        model: str,
        version: str,
        call: Call,
        timeout: float,
        pulse: AsyncPulse | None,
    ) -> None:
        self._stub = stub
        self._pulse = pulse
        self._options = options
        self._model = model
        self._version = version
        self._call = call
        self._id = wire.call_id(call)
        self._deadline = time.monotonic() + timeout
        self._commands: asyncio.Queue[str] = asyncio.Queue()
        self._arrived: asyncio.Queue[Reply | IngotError | None] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None
        self._produced = self._cancelled = self._expired = self._over = False
        self._heard = 0  # messages so far
        self._death: IngotError | None = None

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        while (reply := await self.next_reply()) is not None:
            for chunk in reply.chunks:
                yield chunk

    async def next_reply(self) -> Reply | None:
        """The next reply; None after the last."""
        if self._over:
            return None
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(), name=f"ingot stream {self._id}")
        reply = await self._arrived.get()
        if isinstance(reply, Reply):
            return reply
        self._over = True
        if reply is not None:
            raise reply
        return None

    def cancel(self) -> None:
        """Asks the server to stop; the iteration then ends with the finish reason `abort`."""
        self._cancelled = True
        self._commands.put_nowait("abort")

    async def close(self) -> None:
        """Aborts what still runs and returns once the stream has ended. It ends too where this is cancelled."""
        self.cancel()
        if self._reader is not None:
            await asyncio.wait([self._reader])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _read(self) -> None:
        end: IngotError | None = None
        try:
            await self._run()
        except IngotError as error:
            end = error
        finally:
            self._arrived.put_nowait(end)

    async def _run(self) -> None:
        attempt = 0
        while not self._cancelled:
            try:
                return await self._attempt()
            except wire.RETRYABLE:
                delay = wire.pause(self._options, attempt)
                late = time.monotonic() + delay > self._deadline
                if self._produced or self._cancelled or late or attempt >= self._options.retries:
                    raise
            attempt += 1
            await asyncio.sleep(delay)

    async def _attempt(self) -> None:
        """One gRPC stream, read to its end whatever comes."""
        error: IngotError | None = None
        self._commands, self._death = asyncio.Queue(), None
        call = self._stub.ModelStreamInfer(self._requests(lambda: call.cancel()))
        try:
            async for message in call:
                self._heard += 1
                if message.infer_response.id not in (self._id, ""):
                    continue  # the abort's own, empty reply
                if wire.is_final(message) or message.error_message:
                    self._commands.put_nowait("end")
                self._version = message.infer_response.model_version or self._version
                try:
                    self._arrived.put_nowait(wire.read_reply(message, self._model))
                    self._produced = True
                except IngotError as found:
                    error = found
        except grpc.RpcError as found:
            error = error or wire.error_of_rpc(found, self._model)
        except asyncio.CancelledError:
            if not call.cancelled() or self._reader is None or self._reader.cancelling():
                raise
            error = error or wire.deadline_error(self._model)  # cut by us: even the abort was not answered
        finally:
            self._commands.put_nowait("end")
        if self._death is not None:
            raise self._death
        if self._expired:
            raise wire.deadline_error(self._model)
        if error is not None:
            if self._pulse is not None and isinstance(error, ExecutorDiedError):
                self._pulse.tell(self._model, self._version, error)
            raise error

    async def _requests(self, cut: Callable[[], object]) -> AsyncIterator[Any]:
        """The request, an abort if one is asked for or the deadline passes, then the end."""
        yield wire.infer_request(self._model, self._version, self._call, self._id)
        command = await self._next_command(self._deadline)
        if command not in ("end", "dead"):
            self._expired = command is None
            yield wire.abort_request(self._model, self._version, self._id)
            ends = time.monotonic() + self._options.drain
            while command == "abort" or command is None:
                command = await self._next_command(ends) or "dead"
        if command == "dead":
            cut()  # nothing will end this stream, so it cannot be finishing right now

    async def _next_command(self, until: float) -> str | None:
        """`end`, `abort`, or `dead` where the silence is a dead process; None at `until`."""
        while (left := until - time.monotonic()) > 0:
            heard = self._heard
            try:
                return await asyncio.wait_for(self._commands.get(), min(left, wire.QUIET_SECONDS))
            except TimeoutError:
                if self._pulse is not None and heard == self._heard:
                    self._death = await self._pulse.check(self._model, self._version)
            if self._death is not None:
                return "dead"
        return None
