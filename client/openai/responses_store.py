"""Answers that can be asked for again: in memory, bounded, each seen only by the key that made it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.exceptions import HTTPException

from ingot.client.openai.responses_items import Turn
from ingot.errors import QueueFullError

MAX_STORED = 4096
MAX_BYTES = 64 << 20
MAX_BACKGROUND = 256


@dataclass(slots=True)
class Stored:
    owner: bytes
    body: dict[str, Any]
    turns: list[Turn]  # of the conversation up to and with this answer
    work: asyncio.Task[None] | None = None  # while it runs in the background

    @property
    def running(self) -> bool:
        return self.work is not None and not self.work.done()

    @property
    def size(self) -> int:
        """Bytes, near enough."""
        return len(msgspec.json.encode(self.turns)) + len(msgspec.json.encode(self.body))


class ResponseStore:
    """The least recently used answers go first; those that still run stay."""

    def __init__(self, max_stored: int = MAX_STORED, max_bytes: int = MAX_BYTES) -> None:
        self._max_stored, self._max_bytes = max_stored, max_bytes
        self._stored: OrderedDict[str, Stored] = OrderedDict()
        self._sizes: dict[str, int] = {}

    def get(self, response_id: str, owner: bytes) -> Stored:
        """Raises HTTPException 404, for another's answer too."""
        stored = self._stored.get(response_id)
        if stored is None or stored.owner != owner:
            raise HTTPException(404, f"No response {response_id[:80]!r} is stored: it is old, deleted or never was.")
        self._stored.move_to_end(response_id)
        return stored

    def put(self, stored: Stored) -> None:
        response_id = stored.body["id"]
        self._stored[response_id] = stored
        self._stored.move_to_end(response_id)
        self._sizes[response_id] = stored.size
        while len(self._stored) > self._max_stored or sum(self._sizes.values()) > self._max_bytes:
            oldest = next((one for one, kept in self._stored.items() if not kept.running), None)
            if oldest is None:
                return
            self._drop(oldest)

    def delete(self, response_id: str, owner: bytes) -> None:
        stored = self.get(response_id, owner)
        if stored.work is not None:
            stored.work.cancel()
        self._drop(response_id)

    def check_room(self) -> None:
        """Raises QueueFullError where too many answers run in the background."""
        if sum(stored.running for stored in self._stored.values()) >= MAX_BACKGROUND:
            raise QueueFullError(f"{MAX_BACKGROUND} responses run in the background.", mend="Try again later.")

    def _drop(self, response_id: str) -> None:
        del self._stored[response_id], self._sizes[response_id]
