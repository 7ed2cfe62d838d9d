"""A hosted engine with a fake model: who is answered, in what pieces, and what becomes of those who leave."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engines import LOADER, PAGES, load, write_engine
from tests.waiting import until

from ingot.errors import ExecutorDiedError, IngotError, QueueFullError, RequestError, UnavailableError
from ingot.manifest import read_manifest
from ingot.runtime.calls import AbortCall, Call, Describe, Detokenize, Generate, Part, Reply, Tokenize
from ingot.runtime.host import Host, open_host
from ingot.runtime.messages import Stats
from ingot.runtime.params import SamplingParams
from ingot.runtime.replies import Outcome
from ingot.runtime.request import Chunk, GenerateRequest, Prompt
from ingot.runtime.text import Tokenizer


class FakeCaller:
    """Keeps what it hears. Leaves after `patience` replies; `slow` seconds go by with each."""

    def __init__(self, *, patience: int = 10**9, slow: float = 0.0, breaks: bool = False) -> None:
        self.replies: list[Reply] = []
        self.error: IngotError | None = None
        self.ended = threading.Event()
        self._patience, self._slow, self._breaks = patience, slow, breaks

    def send(self, reply: Reply, *, final: bool) -> None:
        assert not self.ended.is_set(), "nothing comes after the end"
        time.sleep(self._slow)
        if self._breaks:
            raise ConnectionError("the transport broke")
        self.replies.append(reply)
        if final:
            self.ended.set()

    def fail(self, error: IngotError) -> None:
        assert not self.ended.is_set(), "nothing comes after the end"
        self.error = error
        self.ended.set()

    def cancelled(self) -> bool:
        return len(self.replies) >= self._patience

    @property
    def chunks(self) -> list[Chunk]:
        return [chunk for reply in self.replies for chunk in reply.chunks]

    @property
    def parts(self) -> list[Part]:
        return [part for reply in self.replies for part in reply.parts]

    def wait(self) -> FakeCaller:
        assert self.ended.wait(20)
        return self


class Figures:
    def __init__(self) -> None:
        self.first = 0
        self.last = 0
        self.stats: Stats | None = None

    def first_token(self, seconds: float) -> None:
        self.first += 1

    def finished(self, seconds: float) -> None:
        self.last += 1

    def counters(self, stats: Stats) -> None:
        self.stats = stats


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write_engine(tmp_path / "engine", step_seconds=0.002, generation_config={"top_k": 20})


@pytest.fixture
def figures() -> Figures:
    return Figures()


@pytest.fixture
def host(engine: Path, figures: Figures) -> Iterator[Host]:
    host = open_host(engine, figures, max_waiting=4, loader=LOADER)
    yield host
    host.close()


class LockStep:
    """A host whose steps wait for the test, so that it counts steps and not time."""

    def __init__(self, engine: Path) -> None:
        executor = load(engine)
        self._permits = threading.Semaphore(0)
        step = executor.step

        def gated() -> list[Outcome]:
            self._permits.acquire()
            return step()

        executor.step = gated  # type: ignore[method-assign]
        self.host = Host(executor, Tokenizer.from_engine(engine), read_manifest(engine))

    def step(self, caller: FakeCaller) -> None:
        """One step, and all that the reply thread does about it: it has told this caller."""
        heard = len(caller.replies)
        self._permits.release()
        until(lambda: len(caller.replies) > heard)

    def run(self) -> None:
        self._permits.release(10_000)


@pytest.fixture
def lock_step(engine: Path) -> Iterator[LockStep]:
    stepping = LockStep(engine)
    yield stepping
    stepping.run()
    stepping.host.close()


def generate(
    text: str = "hello",
    *,
    name: str = "a",
    max_tokens: int = 20,
    stream: bool = True,
    n: int = 1,
    link: str | None = None,
) -> Generate:
    params = SamplingParams(max_tokens=max_tokens, n=n, seed=1, ignore_eos=True)
    request = GenerateRequest(request_id=name, model="", prompt=Prompt(text=text), params=params)
    return Generate(request=request, stream=stream, link=link)


def ask(host: Host, call: Call, caller: FakeCaller | None = None) -> FakeCaller:
    caller = caller or FakeCaller()
    host.submit(call, caller)
    return caller


def idle(host: Host) -> bool:
    stats = host.stats
    assert stats.pages_free + stats.pages_cached + stats.pages_held == PAGES
    return stats.pages_held == stats.running == stats.waiting == 0


def test_a_stream_and_a_whole_reply_say_the_same(host: Host, figures: Figures) -> None:
    streamed = ask(host, generate()).wait()
    whole = ask(host, generate(stream=False)).wait()
    assert len(streamed.replies) > 1
    assert len(whole.replies) == 1
    assert "".join(c.text for c in streamed.chunks) == "".join(c.text for c in whole.chunks)
    assert streamed.chunks[-1].finish_reason == "length"
    assert (figures.first, figures.last) == (2, 2)
    until(lambda: figures.stats is not None and figures.stats.generation_tokens == 40)


def test_a_slow_caller_gets_fewer_and_larger_replies(host: Host) -> None:
    slow = ask(host, generate(max_tokens=60), FakeCaller(slow=0.02)).wait()
    assert len(slow.chunks) == 60
    assert len(slow.replies) < 30


def test_who_leaves_is_gone_within_three_steps(lock_step: LockStep) -> None:
    """It is seen at its second reply. One step was begun by then, and the next may be before the abort arrives."""
    caller = ask(lock_step.host, generate(max_tokens=400), FakeCaller(patience=2))
    steps = 0
    while not caller.ended.is_set():
        lock_step.step(caller)
        steps += 1
    assert caller.chunks[-1].finish_reason == "abort"
    assert steps <= 2 + 3
    lock_step.run()
    until(lambda: idle(lock_step.host))
    assert lock_step.host.stats.generation_tokens <= 2 + 2


def test_requests_of_a_link_are_told_together(lock_step: LockStep) -> None:
    linked = [ask(lock_step.host, generate(name=f"{i}", link="x", max_tokens=5)) for i in range(3)]
    alone = ask(lock_step.host, generate(name="alone", max_tokens=5))
    lock_step.run()
    for caller in (*linked, alone):
        caller.wait()
    parts = [part for caller in linked for part in caller.parts]
    assert len({len(caller.replies) for caller in linked}) > 1, "one of them carries what is new of the others"
    assert sum(len(caller.replies) for caller in linked) < len(parts), "one reply has many parts"
    for i in range(3):
        own = sorted((part for part in parts if part.request_id == f"{i}"), key=lambda part: part.number)
        assert [part.number for part in own] == list(range(len(own)))
        assert [t for part in own for chunk in part.chunks for t in chunk.token_ids] == [
            t for chunk in alone.chunks for t in chunk.token_ids
        ]
        assert linked[i].parts[-1].request_id == f"{i}", "the last reply of a stream is its own"


def test_a_broken_carrier_loses_nothing_of_the_others(host: Host) -> None:
    ask(host, generate(name="broken", max_tokens=400, link="x"), FakeCaller(breaks=True))
    sound = ask(host, generate(name="sound", link="x")).wait()
    own = [part for part in sound.parts if part.request_id == "sound"]
    assert [part.number for part in own] == list(range(len(own)))
    assert sum(len(chunk.token_ids) for part in own for chunk in part.chunks) == 20
    until(lambda: idle(host))


def test_a_link_that_breaks_off_ends_all_of_its_requests(host: Host) -> None:
    """A transport's stream is cut as a whole; asking one of its requests is enough."""
    for i in range(4):
        ask(host, generate(name=f"{i}", link="x", max_tokens=400), FakeCaller(patience=3 if i == 0 else 10**9))
    other = ask(host, generate(name="other", link="y", max_tokens=30))
    assert other.wait().parts[-1].chunks[-1].finish_reason == "length"
    until(lambda: idle(host))


def test_an_abort_ends_every_request_of_its_id(host: Host) -> None:
    callers = [ask(host, generate(max_tokens=400, name="same")) for _ in range(2)]
    other = ask(host, generate(max_tokens=30, name="other"))
    until(lambda: all(caller.replies for caller in callers))
    ask(host, AbortCall(request_id="same")).wait()
    assert [caller.wait().chunks[-1].finish_reason for caller in callers] == ["abort", "abort"]
    assert other.wait().chunks[-1].finish_reason == "length"
    until(lambda: idle(host))


def test_a_broken_caller_ends_alone(host: Host) -> None:
    ask(host, generate(max_tokens=400), FakeCaller(breaks=True))
    assert ask(host, generate()).wait().chunks[-1].finish_reason == "length"
    until(lambda: idle(host))


def test_small_calls_are_answered_at_once(host: Host, engine: Path) -> None:
    ids = ask(host, Tokenize(prompt=Prompt(text="hi"))).replies[0].token_ids
    assert ids is not None
    assert ask(host, Detokenize(token_ids=ids)).replies[0].text == "hi"
    found = ask(host, Describe()).replies[0].description
    assert found is not None
    assert found.manifest.limits == read_manifest(engine).limits
    assert found.sampling == {"top_k": 20}


def test_the_queue_is_bounded(host: Host) -> None:
    callers = [ask(host, generate(max_tokens=400, n=4)) for _ in range(9)]  # 32 run, 4 wait
    with pytest.raises(QueueFullError):
        ask(host, generate())
    for caller in callers:
        ask(host, AbortCall(request_id="a"))
        caller.wait()
    until(lambda: idle(host))
    assert ask(host, generate()).wait().error is None


def test_what_cannot_start_is_refused_at_the_door(host: Host) -> None:
    with pytest.raises(RequestError):
        ask(host, generate(max_tokens=0))
    assert idle(host)


def test_closing_tells_everyone(engine: Path) -> None:
    host = open_host(engine, loader=LOADER)
    caller = ask(host, generate(max_tokens=400))
    until(lambda: caller.replies)
    host.close()
    assert isinstance(caller.wait().error, UnavailableError)
    host.close()
    for call in (generate(), Describe()):
        with pytest.raises(UnavailableError):
            ask(host, call)


def test_a_dead_executor_tells_everyone(engine: Path) -> None:
    executor = load(engine)
    steps = iter(range(5))

    def fail(*_: object) -> list[object]:
        raise RuntimeError("the device is lost")

    step = executor.step
    executor.step = lambda: step() if next(steps, None) is not None else fail()  # type: ignore
    host = Host(executor, Tokenizer.from_engine(engine), read_manifest(engine))
    callers = [ask(host, generate(max_tokens=400)) for _ in range(3)]
    for caller in callers:
        assert isinstance(caller.wait().error, ExecutorDiedError)
    with pytest.raises(ExecutorDiedError, match="the device is lost"):
        ask(host, Describe())
    host.close()
