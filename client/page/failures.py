"""Counts the answers that were errors, by status: what was asked for last, and when. Keeps no bodies, keys or callers."""

from __future__ import annotations

import time
from http.client import responses

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingot.errors import IngotError

MAX_PATH = 80  # characters shown
MEANINGS = responses | {499: "Client Closed Request"}  # nginx's word for a status without a standard one
LOG = "ingot.failures"  # in a request's scope


class Failure(msgspec.Struct, kw_only=True):
    status: int
    meaning: str
    count: int = 0
    path: str = ""  # of the newest
    at: float = 0.0  # monotonic seconds


class FailureLog:
    """Bounded by the number of statuses."""

    def __init__(self) -> None:
        self._by_status: dict[int, Failure] = {}

    def note(self, status: int, path: str) -> None:
        if status not in self._by_status:
            self._by_status[status] = Failure(status=status, meaning=MEANINGS.get(status, ""))
        failure = self._by_status[status]
        failure.count += 1
        failure.path, failure.at = path[:MAX_PATH], time.monotonic()

    def newest_first(self) -> list[Failure]:
        return sorted(self._by_status.values(), key=lambda failure: -failure.at)


class CountFailures:
    """Wraps the whole app: every status from 400 on, and what was raised past all handlers."""

    def __init__(self, app: ASGIApp, log: FailureLog) -> None:
        self._app, self._log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        scope[LOG] = self._log

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                self._log.note(message["status"], scope["path"])
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            self._log.note(500, scope["path"])
            raise


def note_broken_stream(scope: Scope, error: Exception) -> None:
    """An answer that had begun with a good status, and failed."""
    log: FailureLog | None = scope.get(LOG)
    if log is not None:
        log.note(error.http_status if isinstance(error, IngotError) else 500, scope["path"])
