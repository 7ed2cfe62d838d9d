"""Who waits, in which order, and who is turned away at the door."""

from __future__ import annotations

from typing import Any

import pytest
from tests.runtime.steps import ask, build, step

from ingot.errors import QueueFullError, RequestError


def test_waiting_requests_start_by_priority_then_arrival() -> None:
    scheduler = build(seqs=1)
    for name, priority in (("first", 0), ("late", 5), ("second", 0), ("urgent", -1)):
        scheduler.add(ask(name, [5], priority=priority, max_tokens=1))
    assert [step(scheduler)[0].request_id for _ in range(4)] == ["urgent", "first", "second", "late"]


def test_a_large_request_is_not_overtaken_for_ever() -> None:
    scheduler = build(pages=4, page_size=2)
    scheduler.add(ask("a", [10, 11, 12], max_tokens=2))
    step(scheduler)
    scheduler.add(ask("large", [20, 21, 22, 23, 24], max_tokens=1))
    scheduler.add(ask("small", [30], max_tokens=1))
    assert [chunk.request_id for chunk in step(scheduler)] == ["a"], "small waits behind large"
    assert [chunk.request_id for chunk in step(scheduler)] == ["large", "small"]


def test_the_queue_is_bounded() -> None:
    scheduler = build(seqs=1, max_waiting=3)
    scheduler.add(ask("a", [5]))
    step(scheduler)
    scheduler.add(ask("b", [5], n=2))
    with pytest.raises(QueueFullError, match="2 sequences wait, of 3 that may; this request adds 2"):
        scheduler.add(ask("c", [5], n=2))
    scheduler.add(ask("d", [5]))
    assert (scheduler.stats().running, scheduler.stats().waiting) == (1, 3)


@pytest.mark.parametrize(
    ("prompt", "params", "param"),
    [(10, {}, "prompt"), (9, {"max_tokens": 1}, "prompt"), (4, {"max_tokens": 6}, "max_tokens"), (0, {}, "prompt")],
)
def test_what_can_never_fit_is_refused_up_front(prompt: int, params: dict[str, Any], param: str) -> None:
    scheduler = build(pages=2)  # 8 slots: 9 tokens, for the last needs none
    with pytest.raises(RequestError) as caught:
        scheduler.add(ask("a", [5] * prompt, **params))
    assert caught.value.param == param
    scheduler.add(ask("a", [5] * 4, max_tokens=5))


def test_a_request_id_is_taken_until_it_ends() -> None:
    scheduler = build()
    scheduler.add(ask("a", [5], max_tokens=1))
    with pytest.raises(RequestError, match="'a' is running"):
        scheduler.add(ask("a", [5]))
    step(scheduler)
    scheduler.add(ask("a", [5]))
