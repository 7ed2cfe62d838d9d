"""Runs requests through an executor and keeps the time: of the whole, and of the host's part in it. Knows tokens, no files."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ingot.manifest import Limits
from ingot.runtime.executor import Executor
from ingot.runtime.messages import RequestFailed, Stats, TokenRequest
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import Program, StepPlan, StepResult, Ticket
from ingot.runtime.streams import as_error

UNBOUNDED = 2**31 - 1
GLANCE_SECONDS = 0.5


@dataclass(slots=True)
class Clock:
    """Host seconds by what they went into, and steps by kind."""

    launch: float = 0.0
    wait: float = 0.0
    decode_steps: int = 0
    prompt_steps: int = 0


class TimedTicket:
    def __init__(self, ticket: Ticket, clock: Clock) -> None:
        self._ticket, self._clock = ticket, clock

    def result(self) -> StepResult:
        begin = time.perf_counter()
        done = self._ticket.result()
        self._clock.wait += time.perf_counter() - begin
        return done


class TimedProgram:
    """A Program that passes everything on and keeps the clock."""

    def __init__(self, program: Program) -> None:
        self.num_pages, self.page_size = program.num_pages, program.page_size
        self.max_num_seqs, self.vocab_size = program.max_num_seqs, program.vocab_size
        self.steps_ahead = program.steps_ahead
        self.clock = Clock()
        self._program = program

    def launch(self, plan: StepPlan) -> TimedTicket:
        if all(len(part.tokens) == 1 for part in plan.slices):
            self.clock.decode_steps += 1
        else:
            self.clock.prompt_steps += 1
        begin = time.perf_counter()
        ticket = self._program.launch(plan)
        self.clock.launch += time.perf_counter() - begin
        return TimedTicket(ticket, self.clock)

    def close(self) -> None:
        self._program.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    seconds: float
    output_tokens: int
    clock: Clock = field(default_factory=Clock)

    @property
    def output_tok_s(self) -> float:
        return self.output_tokens / self.seconds

    def line(self) -> dict[str, float]:
        """For a result: steps, and seconds the host took to launch, waited, and did everything else (schedule, settle)."""
        clock = self.clock
        rest = self.seconds - clock.launch - clock.wait
        parts = {"launch": clock.launch, "wait": clock.wait, "schedule_and_settle": rest}
        rounded = {name: round(value, 3) for name, value in parts.items()}
        return {"decode_steps": clock.decode_steps, "prompt_steps": clock.prompt_steps, **rounded}


class Driver:
    """One executor over a program: its pages and its prefix cache start empty."""

    def __init__(self, program: Program, limits: Limits) -> None:
        self._timed = TimedProgram(program)
        self._executor = Executor(self._timed, limits, [], max_waiting=UNBOUNDED)
        self._count = 0

    def stats(self) -> Stats:
        return self._executor.stats()

    def generate(
        self,
        prompts: Sequence[list[int]],
        osl: int,
        *,
        cached: bool = True,
        advance: Callable[[int], None] = lambda tokens: None,
    ) -> tuple[Timing, list[list[int]]]:
        """All prompts at once, greedy, EOS ignored. Time starts with the first request and ends with the last token.

        Without `cached`, every request has a cache salt of its own: the same work, but nothing is ever found. `advance` is
        told tokens now and then: what it does counts as the host's time. Raises what the executor refuses a request with.
        """
        params = SamplingParams(temperature=0.0, max_tokens=osl, ignore_eos=True)
        requests = []
        for number, prompt in enumerate(prompts, self._count):
            name = str(number)
            salt = None if cached else name
            requests.append(TokenRequest(request_id=name, token_ids=prompt, params=params, cache_salt=salt))
        outputs: dict[str, list[int]] = {request.request_id: [] for request in requests}
        self._count += len(requests)
        self._timed.clock = clock = Clock()
        begin = glanced = time.perf_counter()
        untold = 0
        for request in requests:
            self._executor.add(request)
        while self._executor.has_work:
            for told in self._executor.step():
                if isinstance(told, RequestFailed):
                    raise as_error(told)
                outputs[told.request_id] += told.token_ids
                untold += len(told.token_ids)
            if (now := time.perf_counter()) - glanced > GLANCE_SECONDS:
                advance(untold)
                untold, glanced = 0, now
        seconds = time.perf_counter() - begin
        advance(untold)
        found = list(outputs.values())
        return Timing(seconds=seconds, output_tokens=sum(map(len, found)), clock=clock), found
