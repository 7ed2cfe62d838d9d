"""Who is held back because the pool will not hold what runs already, exactly; and that nobody is for ever."""

from __future__ import annotations

from tests.runtime.steps import EOS, ask, build, step

from ingot.runtime.forecast import Forecast
from ingot.runtime.messages import TokenRequest
from ingot.runtime.scheduler import Scheduler
from ingot.runtime.sequence import Sequence

PAGE = 4


def sequence(known: int, max_len: int, *, pages: int = 0, found: int = 0, arrival: int = 0) -> Sequence:
    """One that runs, having computed all it knows; of its pages, the first `found` were in the prefix tree."""
    request = ask("a", [5] * known, max_tokens=max_len - known)
    seq = Sequence(request, 0, seq_id=arrival, arrival=arrival, max_len=max_len, stop_token_ids=frozenset())
    seq.num_computed, seq.pages, seq.num_found = known, list(range(pages)), found
    return seq


def fill(scheduler: Scheduler, *requests: TokenRequest) -> None:
    for request in requests:
        scheduler.add(request)


def test_the_need_is_highest_before_someone_ends() -> None:
    forecast = Forecast(100, PAGE)
    new = sequence(8, 8 + 17)  # 16 tokens to come: 4 pages
    assert forecast.pages_to_come(new, []) == 4
    soon, late = sequence(20, 25, pages=5), sequence(20, 20 + 33, pages=5)
    assert forecast.pages_to_come(new, [soon]) == 2, "4 tokens of both; then soon's 5 pages are enough for new's rest"
    assert forecast.pages_to_come(new, [late]) == 8
    assert forecast.pages_to_come(new, [late, soon]) == 4 * 2 - 5


def test_pages_that_others_share_do_not_count_as_given_back() -> None:
    forecast = Forecast(100, PAGE)
    new, soon = sequence(8, 8 + 17), sequence(20, 25, pages=5, found=4)
    assert forecast.pages_to_come(new, [soon]) == 4 - 1


def test_answers_are_expected_to_last_as_long_as_those_before() -> None:
    forecast = Forecast(100, PAGE)
    greedy = sequence(8, 8 + 4001)
    assert forecast.pages_to_come(greedy, []) == 512 / PAGE, "max_tokens is believed up to a bound"
    forecast.learn(8)
    assert forecast.pages_to_come(greedy, []) == 2
    forecast.learn(16)
    assert forecast.pages_to_come(greedy, []) == 3
    assert forecast.pages_to_come(sequence(8, 8 + 5), []) == 1
    greedy.tokens += [9] * 40
    assert forecast.pages_to_come(greedy, []) == 0, "of an answer that outlived the mean nothing is expected"


def test_a_sequence_waits_until_the_pool_holds_it_to_its_end() -> None:
    scheduler = build(pages=8)  # each takes 2 pages now and 5 at its end: all would start, and two be preempted
    fill(scheduler, *(ask(name, [ord(name)] * 8, max_tokens=13, ignore_eos=True) for name in "abc"))
    steps = []
    while scheduler.has_work:
        steps.append("".join(chunk.request_id for chunk in step(scheduler)))
    # With 4 tokens of a to come it holds 4 pages, b takes 2, and each will need one more; then a gives back its 5. The answer
    # is renewed every 4 steps: for c, it comes when b is nearly done.
    assert steps == ["a"] * 8 + ["ab"] * 5 + ["b"] * 8 + ["c"] * 13
    assert scheduler.stats().preemptions == 0


def test_who_stops_early_makes_room_for_more_at_once() -> None:
    scheduler = build(pages=16)
    fill(scheduler, *(ask(name, [ord(name)] * 4, max_tokens=50) for name in "abcd"))
    step(scheduler)
    assert scheduler.stats().running == 1
    step(scheduler, EOS)
    step(scheduler)
    assert scheduler.stats().running == 3, "answers of 2 tokens are expected now, as though nobody looked ahead"


def test_who_can_run_alone_runs_whatever_it_asks_for() -> None:
    scheduler = build(pages=4)
    fill(scheduler, ask("whole", [5] * 4, max_tokens=13, ignore_eos=True), ask("next", [6] * 4, max_tokens=13))
    told = [chunk for _ in range(13) for chunk in step(scheduler)]
    assert [chunk.request_id for chunk in told] == ["whole"] * 13
    assert [chunk.request_id for chunk in step(scheduler)] == ["next"]


def test_the_urgent_is_not_held_back_by_those_it_may_preempt() -> None:
    scheduler = build(pages=8)
    fill(scheduler, ask("slow", [5] * 8, max_tokens=20))
    step(scheduler)
    fill(scheduler, ask("urgent", [6] * 8, max_tokens=20, priority=-1))
    assert [chunk.request_id for chunk in step(scheduler)] == ["slow", "urgent"]
