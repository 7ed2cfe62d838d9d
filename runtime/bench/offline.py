"""Offline throughput of a subject over workloads: one result each. Knows how a result is made, not how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ingot.runtime.bench.breakdown import Breakdown, break_down, decode_slices, prompt_slices
from ingot.runtime.bench.drive import Driver, Timing
from ingot.runtime.bench.limit import limit_seconds
from ingot.runtime.bench.subject import Subject
from ingot.runtime.bench.workload import Workload

WARM_SEED, SEED = 1, 0
WARM_OSL, WARM_REQUESTS = 8, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    workload: Workload
    timing: Timing
    limit_tok_s: float
    steps: list[Breakdown]

    @property
    def share(self) -> float:
        return self.timing.output_tok_s / self.limit_tok_s

    def line(self) -> dict[str, Any]:
        workload, timing = self.workload, self.timing
        line = {"isl": workload.isl, "osl": workload.osl, "requests": workload.requests, "seconds": round(timing.seconds, 3),
                "output_tok_s": round(timing.output_tok_s, 1), "limit_tok_s": round(self.limit_tok_s, 1),
                "share": round(self.share, 4), "host_s": timing.line()}  # fmt: skip
        return line | ({"breakdown": [step.line() for step in self.steps]} if self.steps else {})


def warm_up(subject: Subject, workloads: Sequence[Workload]) -> None:
    """A few short requests of each length, so that what happens once has happened."""
    driver = Driver(subject.program, subject.limits)
    for workload in workloads:
        short = Workload(
            isl=workload.isl, osl=min(workload.osl, WARM_OSL), requests=min(workload.requests, WARM_REQUESTS)
        )
        driver.generate(short.prompts(subject.config.vocab_size, WARM_SEED), short.osl)


def run_workloads(
    subject: Subject, workloads: Sequence[Workload], *, breakdown: bool, advance: Callable[[Workload, int], None]
) -> Iterator[Result]:
    """Each workload with pages and prefix cache empty. `advance` is told output tokens as they come."""
    for workload in workloads:
        workload.check(subject.limits)
    warm_up(subject, workloads)
    for workload in workloads:
        driver = Driver(subject.program, subject.limits)
        prompts = workload.prompts(subject.config.vocab_size, SEED)
        timing, _ = driver.generate(prompts, workload.osl, advance=partial(advance, workload))
        seconds = limit_seconds(workload, subject.costs, subject.ceilings)
        steps = step_breakdowns(subject, workload) if breakdown else []
        limit_tok_s = workload.requests * workload.osl / seconds
        yield Result(workload=workload, timing=timing, limit_tok_s=limit_tok_s, steps=steps)


def step_breakdowns(subject: Subject, workload: Workload) -> list[Breakdown]:
    """Of a step in the middle of the answers, and of one that reads prompts. The pool still holds the workload's KV."""
    program, tokens = subject.program, subject.limits.max_num_batched_tokens
    found = [break_down(program, "decode", decode_slices(program, workload))]
    return [*found, break_down(program, "prompt", prompt_slices(program, workload, tokens))]
