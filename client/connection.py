"""One HTTP connection's patience: with headers that do not come, with answers that are not read. Knows uvicorn and h11.

uvicorn has neither limit: a client that sends half a request, or stops reading and keeps its socket, stays for ever.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LOOKS = 4  # within each limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    header_seconds: float = 20.0  # for a request's line and headers, counted from the connection or the answer before
    stall_seconds: float = 60.0  # without a byte taken of an answer that waits to be read
    max_connections: int = 4096  # open at a time; more are closed at once


class Connection(H11Protocol):
    """uvicorn's protocol, which closes itself where the client tries its patience."""

    def __init__(self, *args: Any, patience: Patience, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience = patience
        self._look: asyncio.TimerHandle | None = None
        self._idle_seconds = self._stalled_seconds = 0.0
        self._unread = 0
        self._answered: object = None  # uvicorn's record of the request before

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._patience.max_connections:
            transport.abort()
        else:
            self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        period = min(self._patience.header_seconds, self._patience.stall_seconds) / LOOKS
        self._look = self.loop.call_later(period, self._look_once, period)

    def _look_once(self, period: float) -> None:
        unread = self.transport.get_write_buffer_size()
        # A client may ask much between two looks, and be waiting at each of them.
        waits_for_headers = self.conn.their_state is h11.IDLE and self.cycle is self._answered
        self._answered = self.cycle
        self._idle_seconds = self._idle_seconds + period if waits_for_headers else 0.0
        self._stalled_seconds = self._stalled_seconds + period if unread and unread == self._unread else 0.0
        self._unread = unread
        if self._idle_seconds > self._patience.header_seconds or self._stalled_seconds > self._patience.stall_seconds:
            self.transport.abort()
        else:
            self._look_again()
