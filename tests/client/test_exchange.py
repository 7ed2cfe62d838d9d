"""One attempt of one request: the order of what it says, and what its silence asks for."""

from __future__ import annotations

import itertools

from ingot.client.exchange import QUIET_SECONDS, Due, Exchange
from ingot.client.grpc_wire import ClientOptions
from ingot.errors import DeadlineError, ExecutorDiedError, UnavailableError
from ingot.runtime.calls import Generate, Reply
from ingot.runtime.request import GenerateRequest, Prompt


def exchange(*, deadline: float = 1e12, watched: bool = True) -> Exchange:
    call = Generate(request=GenerateRequest(request_id="a", model="m", prompt=Prompt(text="hi")))
    return Exchange("m", "", call, deadline=deadline, options=ClientOptions(drain=5), watched=watched)


def test_replies_that_overtake_each_other_are_put_in_order() -> None:
    for order in itertools.permutations(range(4)):
        one, heard = exchange(), []
        for place, number in enumerate(order):
            assert not one.over
            heard += one.take(Reply(text=str(number)), final=number == 3, number=number)
            assert one.over is (place == 3)
        assert [reply.text for reply in heard] == ["0", "1", "2", "3"]


def test_a_cancelled_request_is_aborted_once_and_given_up_in_the_end() -> None:
    one = exchange()
    now = one.heard_at
    assert one.due(now) is None
    one.cancel()
    assert one.due(now) is Due.ABORT
    assert one.due(now) is None
    assert one.due(now + 5) is Due.GIVE_UP
    assert one.over
    assert one.due(now + 9) is None
    assert isinstance(one.end(), DeadlineError)


def test_past_the_deadline_an_answer_to_the_abort_is_none() -> None:
    one = exchange(deadline=0.0)
    assert one.due(0.0) is Due.ABORT
    one.take(Reply(text="cut short"), final=True)
    assert isinstance(one.end(), DeadlineError)


def test_silence_is_looked_into_again_and_again_but_not_of_probes() -> None:
    one, probe = exchange(), exchange(watched=False)
    quiet = one.heard_at + QUIET_SECONDS
    assert one.pause(one.heard_at) == QUIET_SECONDS
    assert one.due(quiet) is Due.PROBE
    assert one.due(quiet) is None
    assert one.due(quiet + QUIET_SECONDS) is Due.PROBE
    assert probe.due(quiet + 9) is None


def test_the_first_error_counts() -> None:
    one = exchange()
    first = ExecutorDiedError("dead", mend="Wait.")
    one.fail(first)
    one.fail(UnavailableError("cut", mend="Wait."))
    assert one.end() is first
