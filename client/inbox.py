"""The chunks of one request between the executor and whoever reads them: bounded, so that a reader that stops is cut off."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from ingot.errors import IngotError, RequestError
from ingot.runtime.request import Chunk

MAX_PENDING_CHUNKS = 4096


class Inbox:
    """One writer and one reader on one event loop."""

    def __init__(self, limit: int = MAX_PENDING_CHUNKS) -> None:
        self._limit = limit
        self._chunks: deque[Chunk] = deque()
        self._arrived = asyncio.Event()
        self._error: IngotError | None = None
        self._ended = False

    @property
    def failed(self) -> bool:
        return self._error is not None

    def put(self, chunks: Sequence[Chunk]) -> None:
        """Past the limit the unread chunks are dropped and the reader gets an error."""
        self._chunks.extend(chunks)
        if len(self._chunks) > self._limit:
            self._chunks.clear()
            self.fail(
                RequestError(f"The reader fell {self._limit} chunks behind.", mend="Read the stream as it comes.")
            )
        self._arrived.set()

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._arrived.set()

    def fail(self, error: IngotError) -> None:
        """After what has arrived, the reader gets this."""
        self._error = self._error or error
        self._arrived.set()

    async def get(self) -> Chunk | None:
        """The next chunk; None after the last."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self._chunks.popleft()
