"""When a request that gave nothing yet is sent again. Knows errors and clocks; sends nothing."""

from __future__ import annotations

import random
import time

from ingot.client.grpc_wire import ClientOptions
from ingot.errors import ExecutorDiedError, IngotError, QueueFullError, UnavailableError

AWAY = (UnavailableError, ExecutorDiedError)  # a restart may mend these
MAX_PAUSE = 1.0


class Retries:
    """The tries of one request: a few quick ones, and more while what should answer is away."""

    def __init__(self, options: ClientOptions, deadline: float) -> None:
        """`deadline` is on time.monotonic()'s clock."""
        self._options = options
        self._deadline = deadline
        self._tries = 0
        self._away_since: float | None = None

    def pause(self, error: IngotError) -> float | None:
        """Seconds until the next try, spread so that many clients do not come back at once; None: raise the error."""
        if not isinstance(error, (*AWAY, QueueFullError)):
            return None
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        outage = isinstance(error, AWAY) and now < self._away_since + self._options.outage
        if self._tries >= self._options.retries and not outage:
            return None
        pause = min(self._options.backoff * 2.0**self._tries, MAX_PAUSE) * random.uniform(0.5, 1.5)
        self._tries += 1
        return pause if now + pause <= self._deadline else None
