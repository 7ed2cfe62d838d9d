"""One attempt of one request, whatever carries it: what it said, in order, and what its silence asks for.

A stream is never cut while it may be finishing: Triton leaks the model, or falls, when it is. To stop early, an AbortCall
follows the request, and both are read to their end. Pure decisions: opens no connection, waits for
nothing; stream_sync.py and link.py do what due() says.
"""

from __future__ import annotations

import enum
import time

from ingot.client import grpc_wire as wire
from ingot.client.grpc_wire import ClientOptions
from ingot.errors import IngotError
from ingot.runtime.calls import Call, Reply

QUIET_SECONDS = 0.25  # a request silent for this long makes its client look whether the model's process lives


class Due(enum.Enum):
    ABORT = "send an AbortCall"
    PROBE = "see whether the model's process lives"
    GIVE_UP = "even the abort was not answered: nothing will end it, so it cannot be finishing right now"


class Exchange:
    """Its moments are on time.monotonic()'s clock."""

    def __init__(
        self, model: str, version: str, call: Call, *, deadline: float, options: ClientOptions, watched: bool
    ) -> None:
        """`watched`: its silence is looked into. The version is the one that answered, once one has."""
        self.id = wire.call_id(call)
        self.model = model
        self.version = version
        self.call = call
        self.over = False
        self.begun = False  # whether the model has said anything
        self.heard_at = self._looked_at = time.monotonic()
        self._deadline = deadline
        self._drain = options.drain
        self._watched = watched
        self._cancelled = self._expired = False
        self._aborted_at: float | None = None
        self._error: IngotError | None = None
        self._early: dict[int, Reply] = {}
        self._next = 0
        self._last: int | None = None

    def take(self, reply: Reply, *, final: bool, number: int | None = None) -> list[Reply]:
        """What is in order now. Replies without a number come in order."""
        self.heard_at = time.monotonic()
        self.begun = True
        if number is None:
            self.over = final
            return [reply]
        self._early[number] = reply
        if final:
            self._last = number
        ready = []
        while self._next in self._early:
            ready.append(self._early.pop(self._next))
            self.over = self._next == self._last
            self._next += 1
        return ready

    def fail(self, error: IngotError) -> None:
        self._error = self._error or error
        self.over = True

    def cancel(self) -> None:
        self._cancelled = True

    def end(self) -> IngotError | None:
        """What the request ended with, where not well: past a deadline, its abort is no answer."""
        return wire.deadline_error(self.model) if self._expired else self._error

    def due(self, now: float) -> Due | None:
        """What is to be done now. Tells everything once."""
        if self.over:
            return None
        if self._aborted_at is None and (self._cancelled or now >= self._deadline):
            self._expired = not self._cancelled
            self._aborted_at = now
            return Due.ABORT
        if self._aborted_at is not None and now >= self._aborted_at + self._drain:
            self.fail(wire.deadline_error(self.model))
            return Due.GIVE_UP
        if self._watched and now >= max(self.heard_at, self._looked_at) + QUIET_SECONDS:
            self._looked_at = now
            return Due.PROBE
        return None

    def pause(self, now: float) -> float:
        """Seconds until something may be due, if nothing is heard till then."""
        until = self._deadline if self._aborted_at is None else self._aborted_at + self._drain
        if self._watched:
            until = min(until, max(self.heard_at, self._looked_at) + QUIET_SECONDS)
        return max(until - now, 0.0)
