"""One request on one gRPC stream, from ordinary code: retried while it gave nothing, ended safely however it is left.

A stream is never cut while it may be finishing: Triton leaks the model, or falls, when it is. To stop early, an AbortCall
follows the request down the same stream, and both are read to their end.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Any, Self

import grpc

from ingot.client import grpc_wire as wire
from ingot.client.grpc_wire import ClientOptions
from ingot.client.pulse import Pulse
from ingot.errors import ExecutorDiedError, IngotError
from ingot.runtime.calls import Call, Reply
from ingot.runtime.request import Chunk


class Stream:
    """Iterates over Chunks. As a context manager, aborts on the way out what has not ended."""

    def __init__(
        self,
        stub: Any,
        options: ClientOptions,
        model: str,
        version: str,
        call: Call,
        timeout: float,
        pulse: Pulse | None,
    ) -> None:
        self._stub = stub
        self._pulse = pulse
        self._options = options
        self._model = model
        self._version = version
        self._call = call
        self._id = wire.call_id(call)
        self._deadline = time.monotonic() + timeout
        self._commands: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._produced = self._cancelled = self._expired = False
        self._heard = 0  # messages so far
        self._death: IngotError | None = None
        self._replies = self._run()

    def __iter__(self) -> Iterator[Chunk]:
        for reply in self._replies:
            yield from reply.chunks

    def replies(self) -> Iterator[Reply]:
        return self._replies

    def cancel(self) -> None:
        """Asks the server to stop; the iteration then ends with the finish reason `abort`. Any thread may call it, any
        time, as often as it likes."""
        self._cancelled = True
        self._commands.put("abort")

    def close(self) -> None:
        """Aborts what still runs and returns once the stream has ended."""
        self.cancel()
        with contextlib.suppress(IngotError):
            for _ in self._replies:
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> Generator[Reply, None, None]:
        attempt = 0
        while not self._cancelled:
            try:
                yield from self._attempt()
                return
            except wire.RETRYABLE:
                delay = wire.pause(self._options, attempt)
                late = time.monotonic() + delay > self._deadline
                if self._produced or self._cancelled or late or attempt >= self._options.retries:
                    raise
            attempt += 1
            time.sleep(delay)

    def _attempt(self) -> Generator[Reply, None, None]:
        """One gRPC stream, read to its end whatever comes."""
        error: IngotError | None = None
        self._commands, self._death = queue.SimpleQueue(), None
        if self._cancelled:
            return
        call: Any = self._stub.ModelStreamInfer(self._requests(lambda: call.cancel()))
        try:
            for message in call:
                self._heard += 1
                if message.infer_response.id not in (self._id, ""):
                    continue  # the abort's own, empty reply
                final = wire.is_final(message) or bool(message.error_message)
                if final:
                    self._commands.put("end")
                self._version = message.infer_response.model_version or self._version
                try:
                    reply = wire.read_reply(message, self._model)
                except IngotError as found:
                    error = found
                    continue
                self._produced = True
                yield reply
        except grpc.RpcError as found:
            error = error or wire.error_of_rpc(found, self._model)
        finally:
            self._commands.put("end")
        if self._death is not None:
            raise self._death
        if self._expired:
            raise wire.deadline_error(self._model)
        if error is not None:
            if self._pulse is not None and isinstance(error, ExecutorDiedError):
                self._pulse.tell(self._model, self._version, error)
            raise error

    def _requests(self, cut: Callable[[], object]) -> Iterator[Any]:
        """Runs in gRPC's thread: the request, an abort if one is asked for or the deadline passes, then the end."""
        yield wire.infer_request(self._model, self._version, self._call, self._id)
        command = self._next_command(self._deadline)
        if command not in ("end", "dead"):
            self._expired = command is None
            yield wire.abort_request(self._model, self._version, self._id)
            ends = time.monotonic() + self._options.drain
            while command == "abort" or command is None:
                command = self._next_command(ends) or "dead"
        if command == "dead":
            cut()  # nothing will end this stream, so it cannot be finishing right now

    def _next_command(self, until: float) -> str | None:
        """`end`, `abort`, or `dead` where the silence is a dead process; None at `until`."""
        while (left := until - time.monotonic()) > 0:
            heard = self._heard
            try:
                return self._commands.get(timeout=min(left, wire.QUIET_SECONDS))
            except queue.Empty:
                if self._pulse is not None and heard == self._heard:
                    self._death = self._pulse.check(self._model, self._version)
            if self._death is not None:
                return "dead"
        return None
