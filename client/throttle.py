"""How much one caller may ask: requests a minute and requests at a time. Knows no HTTP; OpenAI's words for both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

BUSY_SECONDS = 1.0  # when to ask again where too many run: nobody knows when one ends


class Throttle:
    """A bucket that holds a minute's requests and fills steadily (the generic cell rate), beside a count of what runs."""

    def __init__(
        self,
        requests_per_minute: int | None,
        concurrent: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_minute = requests_per_minute
        self._concurrent = concurrent
        self._clock = clock
        self._left = float(requests_per_minute or 0)
        self._at = clock()
        self.running = 0

    def enter(self) -> tuple[float, str]:
        """Seconds to wait and the reason; 0 where the request may run, and then leave() must follow."""
        self._fill()
        if self._concurrent is not None and self.running >= self._concurrent:
            return BUSY_SECONDS, f"{self._concurrent} requests of this key run already"
        if self._per_minute is not None:
            if self._left < 1:
                return (
                    1 - self._left
                ) * 60 / self._per_minute, f"this key may send {self._per_minute} requests a minute"
            self._left -= 1
        self.running += 1
        return 0.0, ""

    def leave(self) -> None:
        self.running -= 1

    def headers(self) -> dict[str, str]:
        """OpenAI's: the limit, what is left of it, and when all of it is back. None where there is no limit."""
        if self._per_minute is None:
            return {}
        self._fill()
        seconds = (self._per_minute - self._left) * 60 / self._per_minute
        return {
            "x-ratelimit-limit-requests": str(self._per_minute),
            "x-ratelimit-remaining-requests": str(int(self._left)),
            "x-ratelimit-reset-requests": duration(seconds),
        }

    def _fill(self) -> None:
        now = self._clock()
        if self._per_minute is not None:
            self._left = min(self._per_minute, self._left + (now - self._at) * self._per_minute / 60)
        self._at = now


def duration(seconds: float) -> str:
    """As OpenAI writes it: 120ms, 1s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds)
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{whole}s"
