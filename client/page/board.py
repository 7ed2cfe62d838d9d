"""One snapshot a second for all who watch, made by whoever comes first in that second; nobody watches, nothing is made."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator

import msgspec

from ingot import __version__
from ingot.client.backend import Backend, Health, ModelCard
from ingot.client.page.failures import FailureLog
from ingot.client.page.figures import KEPT_SECONDS, Figures, Moment, figures_of
from ingot.client.page.readings import Reading, read_metrics
from ingot.errors import IngotError, QueueFullError

PERIOD = 1.0  # seconds
MAX_WATCHERS = 16
SLACK = 0.005  # seconds into a period, so that a timer that fires early does not find the last one


class ModelSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    target: str
    quant: str
    max_model_len: int
    fingerprint: str
    built: int  # unix seconds
    figures: Figures


class FailureSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    status: int
    meaning: str
    count: int
    path: str
    seconds_ago: float


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    uptime_seconds: float
    health: Health
    models: list[ModelSnapshot]
    failures: list[FailureSnapshot]


class Board:
    """`watch` is called by one event loop."""

    def __init__(
        self, backend: Backend, failures: FailureLog, *, period: float = PERIOD, max_watchers: int = MAX_WATCHERS
    ) -> None:
        self._backend, self._failures = backend, failures
        self._period, self._max_watchers = period, max_watchers
        self._began = time.monotonic()
        self._moments: deque[tuple[float, dict[str, Reading]]] = deque()
        self._watchers = 0
        self._making = asyncio.Lock()
        self._turn = -1  # the period in which the snapshot was made
        self._made = b"", False

    async def watch(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events without end, until the backend is not ready: a page that stays open would hold up a server
        that stops, and comes back by itself. Raises QueueFullError where too many watch."""
        if self._watchers >= self._max_watchers:
            raise QueueFullError(f"{self._watchers} pages are open, as many as may be.", mend="Close one of them.")
        self._watchers += 1
        try:
            ready = True
            while ready:
                event, ready = await self._latest()
                yield event
                await asyncio.sleep(self._period - time.monotonic() % self._period + SLACK)
        finally:
            self._watchers -= 1

    async def _latest(self) -> tuple[bytes, bool]:
        """This period's event, and whether the backend is ready."""
        async with self._making:
            turn = int(time.monotonic() / self._period)
            if turn != self._turn:
                snapshot = await self._snapshot()
                self._made = b"data: " + msgspec.json.encode(snapshot) + b"\n\n", snapshot.health.ready
                self._turn = turn
            return self._made

    async def _snapshot(self) -> Snapshot:
        now = time.monotonic()
        self._moments.append((now, read_metrics((await self._backend.metrics()).decode())))
        while self._moments[0][0] < now - KEPT_SECONDS - 1:
            self._moments.popleft()
        try:
            cards = await self._backend.models()
        except IngotError:  # none is loaded; health says why
            cards = []
        return Snapshot(
            version=__version__,
            uptime_seconds=now - self._began,
            health=await self._backend.health(),
            models=[self._model(card) for card in cards],
            failures=[
                FailureSnapshot(
                    status=one.status, meaning=one.meaning, count=one.count, path=one.path, seconds_ago=now - one.at
                )
                for one in self._failures.newest_first()
            ],
        )

    def _model(self, card: ModelCard) -> ModelSnapshot:
        moments: list[Moment] = [(at, models[card.name]) for at, models in self._moments if card.name in models]
        return ModelSnapshot(
            name=card.name,
            target=card.target,
            quant=card.quant,
            max_model_len=card.max_model_len,
            fingerprint=card.fingerprint,
            built=card.created,
            figures=figures_of(moments or [(self._moments[-1][0], Reading())]),
        )
