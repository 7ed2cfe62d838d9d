"""Which models' processes are known to be dead, so that not everybody asks them. Knows clocks, sends nothing.

Triton takes a second to find out that a process is dead, for each request anew and one after the other: requests that pile up
before a dead process hold up those that would notice, and its return.
"""

from __future__ import annotations

import time

from ingot.errors import ExecutorDiedError

REST_SECONDS = 1.0  # between two requests that try whether it is back

Key = tuple[str, str]  # model, version as asked


class Breaker:
    def __init__(self) -> None:
        self._dead: dict[Key, tuple[float, ExecutorDiedError]] = {}  # when somebody last tried, and what it found

    def refusal(self, key: Key) -> ExecutorDiedError | None:
        """The death that is known; None for whoever may ask, which of a dead model is one at a time."""
        found = self._dead.get(key)
        if found is None:
            return None
        tried, death = found
        if time.monotonic() < tried + REST_SECONDS:
            return death
        self._dead[key] = time.monotonic(), death
        return None

    def died(self, key: Key, death: ExecutorDiedError) -> None:
        self._dead[key] = time.monotonic(), death

    def answered(self, key: Key) -> None:
        self._dead.pop(key, None)
