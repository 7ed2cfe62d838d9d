"""The bucket and the count, under a clock of the test's own."""

from __future__ import annotations

import pytest

from ingot.client.throttle import Throttle, duration


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_requests_come_back_steadily() -> None:
    clock = Clock()
    throttle = Throttle(60, None, clock)
    assert [throttle.enter()[0] for _ in range(60)] == [0.0] * 60
    seconds, reason = throttle.enter()
    assert (seconds, reason) == (1.0, "this key may send 60 requests a minute")
    assert throttle.headers()["x-ratelimit-remaining-requests"] == "0"
    assert throttle.headers()["x-ratelimit-reset-requests"] == "1m0s"
    clock.now = 1.0
    assert throttle.enter()[0] == 0
    assert throttle.enter()[0] == pytest.approx(1.0)
    clock.now = 1e6
    assert throttle.headers()["x-ratelimit-remaining-requests"] == "60"


def test_what_was_refused_takes_nothing() -> None:
    throttle = Throttle(1, 1, Clock())
    assert throttle.enter()[0] == 0
    assert throttle.enter() == (1.0, "1 requests of this key run already")
    throttle.leave()
    assert throttle.running == 0
    assert throttle.enter()[0] == 60


def test_no_limit_has_no_headers() -> None:
    throttle = Throttle(None, None)
    assert [throttle.enter()[0] for _ in range(1000)] == [0.0] * 1000
    assert throttle.headers() == {}


@pytest.mark.parametrize(("seconds", "said"), [(0.0, "0ms"), (0.12, "120ms"), (1, "1s"), (60, "1m0s"), (361.5, "6m2s")])
def test_durations_as_openai_writes_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said
