"""The loop that owns scheduler and program: decide, do, settle. One thread drives it. Knows tokens, not text."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from time import monotonic

from msgspec.structs import replace

from ingot.errors import IngotError, RequestError
from ingot.manifest import Limits
from ingot.runtime.grammars.compiler import GrammarCompiler
from ingot.runtime.messages import RequestFailed, Stats, TokenChunk, TokenRequest
from ingot.runtime.plan import Constraint, Program, StepPlan, Ticket
from ingot.runtime.scheduler import Scheduler

GLANCE_SECONDS = 0.005  # how long a step with nothing else to do waits for a grammar


class Executor:
    def __init__(
        self,
        program: Program,
        limits: Limits,
        eos_token_ids: Collection[int],
        *,
        max_waiting: int = 4096,
        grammars: GrammarCompiler | None = None,
    ) -> None:
        """Without `grammars`, requests that bring one are refused."""
        self._program = program
        self._scheduler = Scheduler(limits, program.num_pages, eos_token_ids=eos_token_ids, max_waiting=max_waiting)
        self._launched: deque[tuple[StepPlan, Ticket]] = deque()
        self._outbox: list[TokenChunk | RequestFailed] = []
        self._grammars = grammars
        self._compiling: dict[str, tuple[TokenRequest, float, Future[Constraint]]] = {}  # and since when
        self._following: dict[str, tuple[TokenRequest, Constraint]] = {}  # requests with a grammar, some ended by now

    @property
    def has_work(self) -> bool:
        """Whether step() has anything to do or to tell."""
        return bool(self._outbox or self._launched or self._compiling or self._scheduler.has_work)

    def add(self, request: TokenRequest) -> None:
        """Queues a request. One that cannot be taken is answered by a RequestFailed in the next step; it harms no other."""
        if request.params.seed is None:
            request = replace(request, params=replace(request.params, seed=secrets.randbits(63)))
        try:
            if request.params.grammar is None:
                self._scheduler.add(request)
            elif self._grammars is None:
                raise RequestError("This engine runs without a grammar compiler.", mend="Leave the grammar out.")
            elif request.request_id in self._compiling:
                raise RequestError(f"Request {request.request_id!r} is running.", mend="Give every request its own id.")
            else:
                compiling = self._grammars.compile(request.params.grammar)
                self._compiling[request.request_id] = request, monotonic(), compiling
        except IngotError as error:
            self._fail(request, error)

    def abort(self, request_id: str, index: int | None = None) -> None:
        """Ends a request or one of its sequences; the next step tells so. Unknown ids are ignored."""
        waiting = self._compiling.pop(request_id, None)
        if waiting is not None:
            self._outbox += [
                TokenChunk(request_id=request_id, index=i, token_ids=[], finish_reason="abort")
                for i in range(waiting[0].params.n)
            ]
        self._outbox += self._scheduler.abort(request_id, index)

    def step(self) -> list[TokenChunk | RequestFailed]:
        """Launches one step and settles the oldest, once more than program.steps_ahead are launched or none could be.

        Whatever the program raises passes through: the state of its device is then unknown, and the executor is dead.
        """
        if self._compiling:
            self._queue_compiled()
        plan = self._scheduler.schedule()
        if plan is not None:
            self._launched.append((plan, self._program.launch(plan)))
        if self._launched and (plan is None or len(self._launched) > self._program.steps_ahead):
            oldest, ticket = self._launched[0]
            result = ticket.result()
            self._launched.popleft()  # after the wait, which an interrupt may cut short
            self._outbox += self._scheduler.settle(oldest, result)
            if self._following:
                self._end_overdue()
        elif plan is None and self._scheduler.has_work:
            raise RuntimeError(f"nothing can run, and nothing is on its way: {self.stats()}")
        told, self._outbox = self._outbox, []
        return told

    def stats(self) -> Stats:
        stats = self._scheduler.stats()
        compiling = sum(request.params.n for request, _, _ in self._compiling.values())
        return replace(stats, waiting=stats.waiting + compiling) if compiling else stats

    def close(self) -> None:
        self._program.close()
        if self._grammars is not None:
            self._grammars.close()

    def _queue_compiled(self) -> None:
        """Requests whose grammars are compiled go where the others wait. With nothing else to do, gives one a moment."""
        if not (self._outbox or self._launched or self._scheduler.has_work):
            wait([future for _, _, future in self._compiling.values()], GLANCE_SECONDS, FIRST_COMPLETED)
        done = [name for name, (_, _, future) in self._compiling.items() if future.done()]
        if not done:
            return
        self._following = {name: pair for name, pair in self._following.items() if self._scheduler.has(name)}
        for request_id in done:
            request, since, future = self._compiling.pop(request_id)
            try:
                constraint = future.result()
                self._scheduler.add(request, constraint, since)
                self._following[request_id] = request, constraint
            except IngotError as error:
                self._fail(request, error)

    def _end_overdue(self) -> None:
        """Ends requests whose grammars cost the others too much of their time."""
        for request_id, (request, constraint) in list(self._following.items()):
            if constraint.overdue:
                del self._following[request_id]
                known = len(self._outbox)
                self._outbox = [one for one in self._outbox if one.request_id != request_id]
                if self._scheduler.abort(request_id) or len(self._outbox) < known:
                    said = "The grammar takes too long to follow; it is ambiguous, or repeats what repeats."
                    self._fail(request, RequestError(said, mend="Simplify it."))

    def _fail(self, request: TokenRequest, error: IngotError) -> None:
        self._outbox.append(
            RequestFailed(request_id=request.request_id, code=error.code, message=error.message, mend=error.mend)
        )
