"""Who runs, on which row and pages, exactly; and what becomes of steps that were launched too early."""

from __future__ import annotations

from typing import Any

import pytest
from tests.runtime.steps import EOS, answer, ask, build, decide, ends, shape, step

from ingot.runtime.plan import FEED


def test_one_sequence_step_by_step() -> None:
    scheduler = build()
    scheduler.add(ask("a", [5, 6, 7, 8, 5], max_tokens=5, seed=3))
    plan = decide(scheduler)
    assert shape(plan) == [(0, 0, [5, 6, 7, 8, 5], [0, 1], 2, True)]
    (arrival,) = plan.arrivals
    assert (arrival.row, arrival.seed, arrival.prompt_tokens, arrival.output_tokens) == (0, 3, [5, 6, 7, 8, 5], [])
    assert ends(scheduler.settle(plan, answer(plan, 10))) == [("a", [10], None)]
    for position, known in ((5, 10), (6, 11), (7, 12)):
        plan = decide(scheduler)
        assert shape(plan) == [(0, position, [known], [0, 1], 0, True)]
        scheduler.settle(plan, answer(plan, known + 1))
    plan = decide(scheduler)
    assert shape(plan) == [(0, 8, [13], [0, 1, 2], 1, True)]
    assert ends(scheduler.settle(plan, answer(plan, 14))) == [("a", [14], "length")]
    assert scheduler.schedule() is None
    assert not scheduler.has_work
    assert (scheduler.stats().pages_free, scheduler.stats().pages_cached) == (30, 2)


def test_long_prompts_are_read_in_chunks_and_stall_nobody() -> None:
    scheduler = build(budget=6)
    scheduler.add(ask("long", list(range(10, 25))))
    scheduler.add(ask("short", [5]))
    assert shape(scheduler.schedule()) == [(0, 0, [10, 11, 12, 13, 14, 15], [0, 1], 2, False)]
    plan = decide(scheduler)
    assert shape(plan) == [(0, 6, [16, 17, 18, 19, 20, 21], [0, 1, 2], 1, False)]
    plan = decide(scheduler)
    assert shape(plan) == [(0, 12, [22, 23, 24], [0, 1, 2, 3], 1, True), (1, 0, [5], [4], 1, True)]
    scheduler.add(ask("new", list(range(30, 50)), priority=-1))
    assert [len(part[2]) for part in shape(scheduler.schedule())] == [1, 1, 4]
    assert [len(part[2]) for part in shape(scheduler.schedule())] == [4, 1, 1], "one token stays for each"


def test_a_step_ahead_takes_its_token_from_the_row() -> None:
    scheduler = build()
    scheduler.add(ask("a", [5, 6], max_tokens=3))
    first, second = decide(scheduler), decide(scheduler)
    assert shape(second) == [(0, 2, [FEED], [0], 0, True)]
    scheduler.settle(first, answer(first, 7))
    third = decide(scheduler)
    assert shape(third) == [(0, 3, [FEED], [0], 0, True)]
    assert scheduler.schedule() is None, "the third token is the last: nothing may be scheduled beyond it"
    assert ends(scheduler.settle(second, answer(second, 8))) == [("a", [8], None)]
    assert ends(scheduler.settle(third, answer(third, 9))) == [("a", [9], "length")]


def test_what_ran_past_a_stop_is_dropped() -> None:
    scheduler = build()
    scheduler.add(ask("a", [5, 6, 7]))
    first, second = decide(scheduler), decide(scheduler)
    (chunk,) = scheduler.settle(first, answer(first, EOS))
    assert (chunk.finish_reason, chunk.stop_reason) == ("stop", None)
    scheduler.add(ask("b", [8]))
    third = decide(scheduler)
    assert (third.departures, [arrival.row for arrival in third.arrivals]) == ([0], [0])
    assert shape(third) == [(0, 0, [8], [0], 1, True)], "page 0 is written again by a later step only"
    assert scheduler.settle(second, answer(second, 77)) == []
    assert ends(scheduler.settle(third, answer(third, 9))) == [("b", [9], None)]
    scheduler.leases.pool.check()


@pytest.mark.parametrize(
    ("params", "token", "expected"),
    [
        ({}, EOS, ("stop", None)),
        ({"ignore_eos": True}, EOS, (None, None)),
        ({"ignore_eos": True, "stop_token_ids": (EOS,)}, EOS, ("stop", EOS)),
        ({"stop_token_ids": (7,)}, 7, ("stop", 7)),
        ({"stop_token_ids": (7,), "max_tokens": 1}, 7, ("stop", 7)),
        ({"max_tokens": 1}, 8, ("length", None)),
        ({}, 8, (None, None)),
    ],
)
def test_why_sequences_end(params: dict[str, Any], token: int, expected: tuple[str | None, int | None]) -> None:
    scheduler = build()
    scheduler.add(ask("a", [5], **params))
    (chunk,) = step(scheduler, token)
    assert (chunk.finish_reason, chunk.stop_reason) == expected


@pytest.mark.parametrize(("max_len", "pages", "expected"), [(6, 32, 6), (64, 2, 9)])
def test_without_max_tokens_the_engine_is_the_limit(max_len: int, pages: int, expected: int) -> None:
    scheduler = build(max_len=max_len, pages=pages)
    scheduler.add(ask("a", [5, 6]))
    chunks = [chunk for _ in range(expected - 2) for chunk in step(scheduler)]
    assert [chunk.finish_reason for chunk in chunks] == [None] * (expected - 3) + ["length"]


def test_an_abort_in_flight_ends_at_once() -> None:
    scheduler = build()
    scheduler.add(ask("a", [5, 6, 7]))
    scheduler.add(ask("b", [6, 6, 7]))
    plan = decide(scheduler)
    assert ends(scheduler.abort("a")) == [("a", [], "abort")]
    assert scheduler.abort("a") == scheduler.abort("unknown") == []
    assert ends(scheduler.settle(plan, answer(plan))) == [("b", [9], None)]
    assert scheduler.stats().pages_held == 1


def test_one_of_n_can_be_aborted() -> None:
    scheduler = build()
    scheduler.add(ask("a", [5, 6], n=3, max_tokens=2))
    step(scheduler)
    assert [(chunk.index, chunk.finish_reason) for chunk in scheduler.abort("a", 1)] == [(1, "abort")]
    assert [(chunk.index, chunk.finish_reason) for chunk in step(scheduler)] == [(0, "length"), (2, "length")]
    assert not scheduler.has_work


def test_sequences_of_one_request_wait_until_one_has_read_the_prompt() -> None:
    scheduler = build()
    scheduler.add(ask("a", list(range(10, 19)), n=3))
    assert [part[:2] for part in shape(scheduler.schedule())] == [(0, 0)]
    assert [part[:2] for part in shape(scheduler.schedule())] == [(0, 9)], "the prompt is in flight still"
    assert scheduler.stats().waiting == 2


def test_followers_start_from_the_leaders_pages_with_their_own_seeds() -> None:
    scheduler = build()
    scheduler.add(ask("a", list(range(10, 19)), n=3, seed=5))
    step(scheduler)
    plan = decide(scheduler)
    assert shape(plan) == [
        (0, 9, [9], [0, 1, 2], 0, True),
        (1, 8, [18], [0, 1, 3], 3, True),
        (2, 8, [18], [0, 1, 4], 3, True),
    ]
    assert [arrival.seed for arrival in plan.arrivals] == [6, 7]
    assert [chunk.cached_tokens for chunk in scheduler.settle(plan, answer(plan))] == [0, 8, 8]


def test_followers_go_on_without_an_aborted_leader() -> None:
    scheduler = build(budget=4)
    scheduler.add(ask("a", list(range(10, 19)), n=3))
    step(scheduler)
    scheduler.abort("a", 0)
    scheduler.abort("a", 2)
    plan = decide(scheduler)
    assert shape(plan) == [(0, 4, [14, 15, 16, 17], [0, 1], 2, False)], "on the row and the page that are left"


def test_running_sequences_offer_their_pages_to_later_requests() -> None:
    scheduler = build()
    scheduler.add(ask("a", list(range(10, 19))))
    step(scheduler)
    scheduler.add(ask("b", [*range(10, 18), 5, 5]))
    scheduler.add(ask("c", list(range(10, 19)), salt="mine"))
    plan = decide(scheduler)
    assert shape(plan)[1:] == [(1, 8, [5, 5], [0, 1, 3], 3, True), (2, 0, list(range(10, 19)), [4, 5, 6], 3, True)]
    stats = scheduler.stats()
    assert (stats.prefix_queries, stats.prefix_hits) == (9 + 10 + 9, 8)


def test_prompt_logprobs_read_the_whole_prompt() -> None:
    scheduler = build()
    scheduler.add(ask("a", list(range(10, 19))))
    step(scheduler)
    scheduler.add(ask("b", list(range(10, 19)), prompt_logprobs=0))
    assert shape(scheduler.schedule())[1][1] == 0


def test_the_youngest_of_the_least_urgent_is_preempted_and_recomputed() -> None:
    scheduler = build(pages=6, seqs=4, page_size=2)
    for name, priority in (("a", 0), ("b", 1), ("c", 1)):
        scheduler.add(ask(name, [10 + priority, ord(name), 7], priority=priority))
    assert [chunk.request_id for chunk in step(scheduler, 20, 21, 22)] == ["a", "b", "c"]
    assert [chunk.request_id for chunk in step(scheduler, 23, 24, 25)] == ["a", "b", "c"]
    plan = decide(scheduler)
    assert shape(plan) == [(0, 4, [23], [0, 1, 5], 1, True), (1, 4, [24], [2, 3, 4], 1, True)], "c gave up 5, then 4"
    assert plan.departures == [2]
    assert scheduler.stats().preemptions == 1
    scheduler.settle(plan, answer(plan, 25, 26))
    scheduler.abort("a")
    plan = decide(scheduler)
    assert [(arrival.row, arrival.prompt_tokens, arrival.output_tokens) for arrival in plan.arrivals] == [
        (0, [11, ord("c"), 7], [22, 25])
    ]
    assert shape(plan)[1][1:3] == (0, [11, ord("c"), 7, 22, 25]), "its first page was evicted, so all is computed again"


def test_a_token_sampled_before_a_preemption_is_kept() -> None:
    scheduler = build(pages=4, page_size=2)
    scheduler.add(ask("a", [10, 11, 12]))
    scheduler.add(ask("b", [13, 14, 15]))
    first = decide(scheduler)
    second = decide(scheduler)
    third = decide(scheduler)  # a needs a third page: b, two steps in flight, is preempted
    assert (len(third.slices), scheduler.stats().preemptions) == (1, 1)
    assert ends(scheduler.settle(first, answer(first, 20, 21))) == [("a", [20], None), ("b", [21], None)]
    assert ends(scheduler.settle(second, answer(second, 22, 23))) == [("a", [22], None), ("b", [23], None)]
    scheduler.abort("a")
    plan = decide(scheduler)
    assert shape(plan) == [(0, 0, [13, 14, 15, 21, 23], [1, 2, 3], 3, True)]
    assert plan.arrivals[0].output_tokens == [21, 23]


def test_a_constrained_sequence_waits_for_its_token_and_others_do_not() -> None:
    scheduler = build()
    scheduler.add(ask("free", [1, 2]))
    scheduler.add(ask("bound", [3, 4]), Anything())
    first = decide(scheduler)
    ahead = decide(scheduler)
    assert [part.tokens for part in ahead.slices] == [[FEED]]
    scheduler.settle(first, answer(first, 7, 8))
    after = decide(scheduler)
    assert [part.tokens for part in after.slices] == [[FEED], [8]]
    scheduler.settle(ahead, answer(ahead, 9))
    scheduler.settle(after, answer(after, 9, 9))


class Anything:
    """A constraint that allows every token."""

    overdue = False

    def begin(self) -> Anything:
        return self

    def accept(self, token: int) -> bool:
        return True

    def fill(self, masks: Any, row: int) -> bool:
        return False
