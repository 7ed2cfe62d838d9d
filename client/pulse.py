"""Whether a model's process lives. Triton leaves the streams of a dead one open and silent for ever, so clients look.

One probe answers for all streams of a model that fell silent together, and so does any request that met the death first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from ingot.client.exchange import QUIET_SECONDS
from ingot.client.grpc_wire import PROBE_SECONDS
from ingot.errors import ExecutorDiedError, IngotError

Key = tuple[str, str]  # model, version
Finding = ExecutorDiedError | None


class Pulse:
    """`probe(model, version)` asks the model anything and raises what it hears."""

    def __init__(self, probe: Callable[[str, str], object]) -> None:
        self._probe = probe
        self._lock = threading.Lock()
        self._last: dict[Key, tuple[float, Future[Finding]]] = {}

    def check(self, model: str, version: str) -> Finding:
        """The death of the model's process, or None. Only a death counts: slow or busy models are left alone."""
        key, now = (model, version), time.monotonic()
        with self._lock:
            last = self._last.get(key)
            ours = last is None or (last[1].done() and now - last[0] > QUIET_SECONDS)
            found = Future[Finding]() if last is None or ours else last[1]
            if ours:
                self._last[key] = (now, found)
        if ours:
            self._settle(found, self._ask(model, version))
        try:
            return found.result(PROBE_SECONDS)
        except TimeoutError:
            return None

    def tell(self, model: str, version: str, death: ExecutorDiedError) -> None:
        """A request met the death; whoever waits for a probe need not wait longer."""
        with self._lock:
            _, found = self._last.get((model, version), (0.0, Future[Finding]()))
            if found.done():
                found = Future()
            self._last[model, version] = (time.monotonic(), found)
        self._settle(found, death)

    def _settle(self, found: Future[Finding], finding: Finding) -> None:
        with self._lock:
            if not found.done():
                found.set_result(finding)

    def _ask(self, model: str, version: str) -> Finding:
        try:
            self._probe(model, version)
        except ExecutorDiedError as death:
            return death
        except IngotError:
            return None  # it answered, or the whole server is out of reach, which the stream sees for itself
        return None
