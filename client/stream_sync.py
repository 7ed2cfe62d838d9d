"""One request on one gRPC stream, from ordinary code. Does what an Exchange decides: client/exchange.py says why."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Any, Self

import grpc

from ingot.client import grpc_wire as wire
from ingot.client.exchange import Due, Exchange
from ingot.client.grpc_wire import ClientOptions
from ingot.client.pulse import Pulse
from ingot.client.retries import Retries
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
        self._deadline = time.monotonic() + timeout
        self._retries = Retries(options, self._deadline)
        self._make_exchange: Callable[[], Exchange] = lambda: Exchange(
            model, version, call, deadline=self._deadline, options=options, watched=pulse is not None
        )
        self._exchange: Exchange | None = None
        self._wake = threading.Event()  # something may be due that was not
        self._produced = self._cancelled = False
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
        if self._exchange is not None:
            self._exchange.cancel()
        self._wake.set()

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
        while not self._cancelled:
            self._exchange = exchange = self._make_exchange()
            if self._cancelled:  # meanwhile, by another thread
                return
            yield from self._attempt(exchange)
            error = exchange.end()
            if error is None:
                return
            pause = None if self._produced or self._cancelled else self._retries.pause(error)
            if pause is None:
                raise error
            self._wake.clear()
            self._wake.wait(pause)

    def _attempt(self, exchange: Exchange) -> Generator[Reply, None, None]:
        """One gRPC stream, read to its end whatever comes."""
        call: Any = self._stub.ModelStreamInfer(self._requests(exchange, lambda: call.cancel()))
        try:
            for message in call:
                if message.infer_response.id not in (exchange.id, ""):
                    continue  # the abort's own, empty reply
                exchange.version = message.infer_response.model_version or exchange.version
                try:
                    replies = exchange.take(wire.read_reply(message, exchange.model), final=wire.is_final(message))
                except IngotError as error:
                    self._fail(exchange, error)
                    replies = []
                if exchange.over:
                    self._wake.set()
                for reply in replies:
                    self._produced = True
                    yield reply
        except grpc.RpcError as error:
            self._fail(exchange, wire.error_of_rpc(error, exchange.model))
        finally:
            exchange.over = True
            self._wake.set()

    def _fail(self, exchange: Exchange, error: IngotError) -> None:
        exchange.fail(error)
        if self._pulse is not None and isinstance(error, ExecutorDiedError):
            self._pulse.tell(exchange.model, exchange.version, error)

    def _requests(self, exchange: Exchange, cut: Callable[[], object]) -> Iterator[Any]:
        """Runs in gRPC's thread: the request, an abort if one is due, then the end."""
        yield wire.infer_request(exchange.model, exchange.version, exchange.call, exchange.id)
        while not exchange.over:
            self._wake.clear()
            due = exchange.due(time.monotonic())
            if due is Due.ABORT:
                yield wire.abort_request(exchange.model, exchange.version, exchange.id)
            elif due is Due.GIVE_UP:
                cut()
            elif due is Due.PROBE and self._pulse is not None:
                death = self._pulse.check(exchange.model, exchange.version)
                if death is not None:
                    exchange.fail(death)
                    cut()
            elif not exchange.over:
                self._wake.wait(exchange.pause(time.monotonic()))
