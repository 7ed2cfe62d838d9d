"""Which failures are tried again, how often, and for how long; and who may ask a dead model."""

from __future__ import annotations

import time

import pytest

from ingot.client import breaker, retries
from ingot.client.breaker import Breaker
from ingot.client.grpc_wire import ClientOptions
from ingot.client.retries import Retries
from ingot.errors import ExecutorDiedError, IngotError, QueueFullError, RequestError, UnavailableError

AWAY = UnavailableError("away", mend="Wait.")
DEAD = ExecutorDiedError("dead", mend="Wait.")


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def waited(clock: Clock, error: IngotError, options: ClientOptions, seconds: float = 1e9) -> tuple[int, float]:
    """How many tries followed, and how long they took together, where each fails at once."""
    tries, began = Retries(options, clock.now + seconds), clock.now
    count = 0
    while (pause := tries.pause(error)) is not None:
        assert pause <= retries.MAX_PAUSE * 1.5
        clock.now += pause
        count += 1
    return count, clock.now - began


def test_only_what_may_mend_itself_is_tried_again(clock: Clock) -> None:
    options = ClientOptions(retries=3, backoff=0.1)
    assert waited(clock, AWAY, options)[0] == waited(clock, QueueFullError("full", mend="Wait."), options)[0] == 3
    assert waited(clock, RequestError("bad", mend="Mend."), options)[0] == 0


def test_an_outage_is_waited_out_but_a_full_queue_is_not(clock: Clock) -> None:
    options = ClientOptions(retries=3, backoff=0.1, outage=30)
    for error in (AWAY, DEAD):
        assert 30 <= waited(clock, error, options)[1] <= 32
    assert waited(clock, QueueFullError("full", mend="Wait."), options)[0] == 3


def test_nobody_waits_past_the_deadline(clock: Clock) -> None:
    assert waited(clock, AWAY, ClientOptions(outage=30), seconds=5)[1] <= 5


def test_a_dead_model_is_asked_by_one_at_a_time(clock: Clock) -> None:
    gate, key = Breaker(), ("m", "")
    assert gate.refusal(key) is None
    gate.died(key, DEAD)
    assert gate.refusal(key) is DEAD
    clock.now += breaker.REST_SECONDS
    assert gate.refusal(key) is None
    assert gate.refusal(key) is DEAD, "one tries, the others wait for what it finds"
    assert gate.refusal(("other", "")) is None
    gate.answered(key)
    assert gate.refusal(key) is None
