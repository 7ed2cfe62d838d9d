"""One request on a shared stream, for asyncio: its replies for one reader, and its tries. Whoever iterates may be cancelled freely."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

from ingot.client.breaker import Breaker
from ingot.client.exchange import Exchange
from ingot.client.grpc_wire import ClientOptions
from ingot.client.link import Link
from ingot.client.retries import Retries
from ingot.errors import ExecutorDiedError, IngotError
from ingot.runtime.calls import Call, Reply
from ingot.runtime.request import Chunk


class AsyncStream:
    """Iterates over Chunks. As a context manager, aborts on the way out what has not ended."""

    def __init__(
        self,
        link_for: Callable[[Exchange], Link],
        breaker: Breaker,
        options: ClientOptions,
        model: str,
        version: str,
        call: Call,
        timeout: float,
        *,
        watched: bool,
    ) -> None:
        """One that is not `watched` is a probe: neither its silence nor a known death keeps it from asking."""
        self._link_for = link_for
        self._breaker = breaker
        self._watched = watched
        self._key = (model, version)
        deadline = time.monotonic() + timeout
        self._retries = Retries(options, deadline)
        self._make_exchange: Callable[[], Exchange] = lambda: Exchange(
            model, version, call, deadline=deadline, options=options, watched=watched
        )
        self._exchange: Exchange | None = None
        self._link: Link | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._replies: deque[Reply] = deque()
        self._arrived = asyncio.Event()
        self._over = asyncio.Event()
        self._produced = self._cancelled = False
        self._error: IngotError | None = None

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        while (reply := await self.next_reply()) is not None:
            for chunk in reply.chunks:
                yield chunk

    async def next_reply(self) -> Reply | None:
        """The next reply; None after the last."""
        if self._exchange is None:
            self._try()
        while not self._replies:
            if self._over.is_set():
                error, self._error = self._error, None
                if error is not None:
                    raise error
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self._replies.popleft()

    def cancel(self) -> None:
        """Asks the server to stop; the iteration then ends with the finish reason `abort`."""
        self._cancelled = True
        if self._exchange is not None and self._link is not None:
            self._exchange.cancel()
            self._link.heed(self._exchange)
        if self._retry is not None:
            self._retry.cancel()
            self._finish(None)

    async def close(self) -> None:
        """Aborts what still runs and returns once the stream has ended. It ends too where this is cancelled."""
        self.cancel()
        if self._exchange is not None:
            await self._over.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def hear(self, replies: list[Reply]) -> None:
        """The link's: what has come."""
        if not self._produced:
            self._breaker.answered(self._key)
        self._produced = True
        self._replies.extend(replies)
        self._arrived.set()

    def end(self, error: IngotError | None) -> None:
        """The link's: an attempt is over."""
        self._link = None
        if isinstance(error, ExecutorDiedError):
            self._breaker.died(self._key, error)
        self._go_on(error)

    def _go_on(self, error: IngotError | None) -> None:
        pause = None if error is None or self._produced or self._cancelled else self._retries.pause(error)
        if pause is None:
            self._finish(error)
        else:
            self._retry = asyncio.get_running_loop().call_later(pause, self._try)

    def _try(self) -> None:
        self._retry = None
        self._exchange = self._make_exchange()
        if self._cancelled:
            self._finish(None)
            return
        if self._watched and (death := self._breaker.refusal(self._key)) is not None:
            self._go_on(death)
            return
        self._link = self._link_for(self._exchange)
        self._link.open(self._exchange, self)

    def _finish(self, error: IngotError | None) -> None:
        self._error = error
        self._over.set()
        self._arrived.set()
