"""The loop that owns scheduler and program: decide, do, settle. One thread drives it. Knows tokens, not text."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Collection

from msgspec.structs import replace

from ingot.errors import IngotError
from ingot.manifest import Limits
from ingot.runtime.messages import RequestFailed, Stats, TokenChunk, TokenRequest
from ingot.runtime.plan import Program, StepPlan, Ticket
from ingot.runtime.scheduler import Scheduler


class Executor:
    def __init__(
        self, program: Program, limits: Limits, eos_token_ids: Collection[int], *, max_waiting: int = 4096
    ) -> None:
        self._program = program
        self._scheduler = Scheduler(limits, program.num_pages, eos_token_ids=eos_token_ids, max_waiting=max_waiting)
        self._launched: deque[tuple[StepPlan, Ticket]] = deque()
        self._outbox: list[TokenChunk | RequestFailed] = []

    @property
    def has_work(self) -> bool:
        """Whether step() has anything to do or to tell."""
        return bool(self._outbox or self._launched or self._scheduler.has_work)

    def add(self, request: TokenRequest) -> None:
        """Queues a request. One that cannot be taken is answered by a RequestFailed in the next step; it harms no other."""
        if request.params.seed is None:
            request = replace(request, params=replace(request.params, seed=secrets.randbits(63)))
        try:
            self._scheduler.add(request)
        except IngotError as error:
            self._outbox.append(
                RequestFailed(request_id=request.request_id, code=error.code, message=error.message, mend=error.mend)
            )

    def abort(self, request_id: str, index: int | None = None) -> None:
        """Ends a request or one of its sequences; the next step tells so. Unknown ids are ignored."""
        self._outbox += self._scheduler.abort(request_id, index)

    def step(self) -> list[TokenChunk | RequestFailed]:
        """Launches one step and settles the oldest, once more than program.steps_ahead are launched or none could be.

        Whatever the program raises passes through: the state of its device is then unknown, and the executor is dead.
        """
        plan = self._scheduler.schedule()
        if plan is not None:
            self._launched.append((plan, self._program.launch(plan)))
        if self._launched and (plan is None or len(self._launched) > self._program.steps_ahead):
            oldest, ticket = self._launched[0]
            result = ticket.result()
            self._launched.popleft()  # after the wait, which an interrupt may cut short
            self._outbox += self._scheduler.settle(oldest, result)
        elif plan is None and self._scheduler.has_work:
            raise RuntimeError(f"nothing can run, and nothing is on its way: {self.stats()}")
        told, self._outbox = self._outbox, []
        return told

    def stats(self) -> Stats:
        return self._scheduler.stats()

    def close(self) -> None:
        self._program.close()
