"""The loop: how far ahead it runs, whom a failure reaches, and what it leaves behind."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes import FakeProgram, FakeTicket

from ingot.manifest import Limits
from ingot.runtime.executor import Executor
from ingot.runtime.messages import RequestFailed, TokenChunk, TokenRequest
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import StepPlan

LIMITS = Limits(max_model_len=32, max_num_seqs=2, max_num_batched_tokens=16, page_size=4)


def build(steps_ahead: int = 0, **options: int) -> tuple[Executor, FakeProgram]:
    program = FakeProgram(num_pages=8, page_size=4, max_num_seqs=2, steps_ahead=steps_ahead)
    return Executor(program, LIMITS, [], **options), program


def ask(name: str, prompt: int = 3, **params: Any) -> TokenRequest:
    return TokenRequest(request_id=name, token_ids=[5] * prompt, params=SamplingParams(**params))


def run(executor: Executor) -> list[TokenChunk | RequestFailed]:
    told = []
    while executor.has_work:
        told += executor.step()
    return told


@pytest.mark.parametrize("steps_ahead", [0, 1, 2])
def test_as_many_steps_are_launched_ahead_as_the_program_allows(steps_ahead: int) -> None:
    executor, program = build(steps_ahead)
    executor.add(ask("a", max_tokens=8))
    counts = [(len(executor.step()), len(program.plans)) for _ in range(5)]
    assert counts == [(int(turn > steps_ahead), turn) for turn in range(1, 6)]
    assert sum(isinstance(told, TokenChunk) for told in run(executor)) == 8 - (5 - steps_ahead)


def test_a_request_that_cannot_be_taken_fails_alone() -> None:
    executor, _ = build(max_waiting=1)
    executor.add(ask("a", max_tokens=2))
    executor.add(ask("full", max_tokens=2))
    told = executor.step()
    executor.add(ask("large", prompt=40))
    told += run(executor)
    failures = {one.request_id: one for one in told if isinstance(one, RequestFailed)}
    assert {name: one.code for name, one in failures.items()} == {"full": "queue_full", "large": "invalid_request"}
    assert all(one.message and one.mend for one in failures.values())
    assert [one.request_id for one in told if isinstance(one, TokenChunk)] == ["a", "a"]


def test_an_idle_executor_tells_a_failure_too() -> None:
    executor, _ = build()
    executor.add(ask("large", prompt=40))
    assert executor.has_work
    assert [type(told) for told in executor.step()] == [RequestFailed]
    assert not executor.has_work
    assert executor.step() == []


def test_aborts_are_told_in_the_next_step() -> None:
    executor, _ = build(steps_ahead=1)
    executor.add(ask("a", n=2))
    executor.step()
    executor.abort("a", 1)
    executor.abort("gone")
    assert [(told.index, told.finish_reason) for told in executor.step() if isinstance(told, TokenChunk)] == [
        (1, "abort"),
        (0, None),
    ]
    executor.abort("a")
    assert run(executor)[-1].request_id == "a"
    assert executor.stats().pages_held == 0


def test_requests_without_a_seed_get_one_each() -> None:
    executor, program = build()
    for name in ("a", "b"):
        executor.add(ask(name, max_tokens=1))
    run(executor)
    seeds = [arrival.seed for plan in program.plans for arrival in plan.arrivals]
    assert len(set(seeds)) == 2
    assert all(0 <= seed < 2**63 for seed in seeds)


class BrokenProgram(FakeProgram):
    def launch(self, plan: StepPlan) -> FakeTicket:
        raise OSError("the device is gone")


def test_a_broken_program_is_not_hidden() -> None:
    executor = Executor(BrokenProgram(num_pages=8, page_size=4, max_num_seqs=2), LIMITS, [])
    executor.add(ask("a"))
    with pytest.raises(OSError, match="device is gone"):
        executor.step()


def test_stats_count() -> None:
    executor, program = build()
    executor.add(ask("a", prompt=9, max_tokens=3))
    run(executor)
    executor.add(ask("b", prompt=9, max_tokens=1))
    run(executor)
    stats = executor.stats()
    assert (stats.prompt_tokens, stats.generation_tokens, stats.steps) == (18, 4, len(program.plans))
    assert (stats.prefix_queries, stats.prefix_hits, stats.preemptions) == (18, 8, 0)
    assert (stats.pages_free, stats.pages_cached, stats.pages_held, stats.pages_total) == (6, 2, 0, 8)


def test_closing_closes_the_program() -> None:
    executor, program = build()
    executor.close()
    assert program.closed
