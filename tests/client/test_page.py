"""The status page without a browser: what its figures are made of, who shares them, who may see them."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, aclosing

import httpx
import msgspec
import pytest
from tests.client.fake_backend import NAME, FakeBackend
from tests.client.served import served

from ingot.client.metrics import Metrics
from ingot.client.openai.gate import GateOptions
from ingot.client.page.board import MAX_WATCHERS, Board, Snapshot
from ingot.client.page.failures import FailureLog
from ingot.client.page.figures import Moment, figures_of, quantile
from ingot.client.page.paths import OPEN_FILES, STREAM
from ingot.client.page.readings import Reading, read_metrics
from ingot.errors import ExecutorDiedError, QueueFullError
from ingot.runtime.messages import Stats

KEY = "the page's"


def stats(**given: int) -> Stats:
    names = (*Stats.__struct_fields__,)
    return Stats(**(dict.fromkeys(names, 0) | {"pages_total": 10, "pages_free": 10} | given))


class MeasuredBackend(FakeBackend):
    """Counts how often it was looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.stats = stats()
        self.looks = 0
        self.measured = Metrics(NAME, lambda: self.stats)

    async def metrics(self) -> bytes:
        self.looks += 1
        return self.measured.text()


async def snapshot(events: AsyncGenerator[bytes, None]) -> Snapshot:
    event = await anext(events)
    assert event.endswith(b"\n\n")
    return msgspec.json.decode(event.removeprefix(b"data: "), type=Snapshot)


def test_readings_are_those_of_each_model() -> None:
    names = ("plain", 'a "quoted\\ {model}\nof two lines')
    for name in names:
        metrics = Metrics(name, lambda: stats(running=3, generation_tokens=41))
        metrics.finish("stop", whole=1.0, inference=1.0, decode=1.0, tokens=3)
        metrics.finish("length", whole=1.0, inference=1.0, decode=1.0, tokens=3)
        metrics.first_token.observe(0.03)
        reading = read_metrics(metrics.text().decode())[name]
        assert reading.values["num_requests_running"] == 3
        assert reading.values["generation_tokens"] == 41
        assert reading.values["request_success"] == 2
        buckets = reading.buckets["time_to_first_token_seconds"]
        assert (buckets[0.02], buckets[0.04], buckets[math.inf]) == (0, 1, 1)


def moment(at: float, **values: float) -> Moment:
    return at, Reading(values, {})


def test_rates_are_over_their_window() -> None:
    moments = [moment(second, generation_tokens=10 * second, prompt_tokens=5) for second in range(20)]
    found = figures_of(moments)
    assert found.output_tokens_per_second == 10
    assert found.prompt_tokens_per_second == 0
    assert found.prefix_hit_rate is None
    assert figures_of(moments[:1]).output_tokens_per_second is None


def test_an_executor_that_began_again_gives_no_negative_rate() -> None:
    found = figures_of([moment(0, generation_tokens=1000), moment(1, generation_tokens=30)])
    assert found.output_tokens_per_second == 30


def test_percentiles_lie_within_their_bucket() -> None:
    counts = [(0.1, 0.0), (0.2, 50.0), (0.4, 100.0), (math.inf, 100.0)]
    assert quantile(counts, 0.5) == pytest.approx(0.2)
    assert quantile(counts, 0.75) == pytest.approx(0.3)
    assert quantile([(0.1, 0.0), (math.inf, 4.0)], 0.95) == 0.1  # longer than the last bound: as much as is known
    then = Reading({}, {"e2e_request_latency_seconds": {0.1: 9.0, 0.2: 9.0, math.inf: 9.0}})
    now = Reading({}, {"e2e_request_latency_seconds": {0.1: 9.0, 0.2: 19.0, math.inf: 19.0}})
    found = figures_of([(0.0, then), (1.0, now)]).e2e
    assert found is not None
    assert 0.1 < found.p50 < found.p95 <= 0.2
    assert figures_of([(0.0, then), (1.0, then)]).e2e is None  # nothing new


async def test_all_who_watch_share_one_look() -> None:
    backend = MeasuredBackend()
    board = Board(backend, FailureLog(), period=3600.0)  # no second period begins during the test
    async with AsyncExitStack() as stack:
        watchers = [await stack.enter_async_context(aclosing(board.watch())) for _ in range(MAX_WATCHERS)]
        found = await asyncio.gather(*map(snapshot, watchers))
        assert backend.looks == 1
        assert all(one == found[0] for one in found)
        with pytest.raises(QueueFullError, match="16 pages"):
            await anext(board.watch())
    async with aclosing(board.watch()) as events:  # every place came back
        assert (await snapshot(events)).models[0].name == NAME


async def test_figures_follow_the_backend() -> None:
    backend = MeasuredBackend()
    async with aclosing(Board(backend, FailureLog(), period=0.05).watch()) as events:
        first = await snapshot(events)
        assert first.models[0].figures.running == 0
        backend.stats = stats(running=2, waiting=5, pages_free=4, prefix_queries=10, prefix_hits=4, generation_tokens=9)
        figures = (await snapshot(events)).models[0].figures
        assert (figures.running, figures.waiting, figures.kv_use, figures.prefix_hit_rate) == (2, 5, 0.6, 0.4)
        assert (figures.output_tokens_per_second or 0) > 0


async def test_a_stream_ends_when_the_backend_stops() -> None:
    """So that an open page holds up no server that stops."""
    backend = FakeBackend()
    async with aclosing(Board(backend, FailureLog(), period=0.05).watch()) as events:
        assert (await snapshot(events)).health.ready
        await backend.stop(0)
        rest = [event async for event in events]
    assert len(rest) <= 2  # one may have been made before
    assert b'"ready":false' in rest[-1]


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[httpx.Client, FakeBackend]]:
    backend = FakeBackend()
    with served(backend, GateOptions(api_keys=(KEY,))) as url, httpx.Client(base_url=url, verify=False) as http:
        yield http, backend


def test_files_need_no_key_and_no_other_server(guarded: tuple[httpx.Client, FakeBackend]) -> None:
    for path in OPEN_FILES:
        for method in ("GET", "HEAD"):
            reply = guarded[0].request(method, path)
            assert reply.status_code == 200
            policy = reply.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'")
            assert "unsafe" not in policy
            assert "http" not in policy
    texts = [guarded[0].get(path).text for path in OPEN_FILES]
    assert not [text for text in texts if "https://" in text or "style=" in text or "onclick" in text]
    assert guarded[0].post("/", json={"inputs": "x"}).status_code == 401  # TGI's route has the same path


def test_figures_need_the_key(guarded: tuple[httpx.Client, FakeBackend]) -> None:
    http, _ = guarded
    assert http.get(STREAM).status_code == 401
    with http.stream("GET", STREAM, headers={"Authorization": f"Bearer {KEY}"}) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        line = next(line for line in reply.iter_lines() if line)
    assert json.loads(line.removeprefix("data: "))["models"][0]["name"] == NAME


def test_failures_are_counted_by_status(guarded: tuple[httpx.Client, FakeBackend]) -> None:
    http, backend = guarded
    headers = {"Authorization": f"Bearer {KEY}"}
    http.get("/nowhere", headers=headers)
    http.get("/v1/models")
    backend.error, backend.fail_after = ExecutorDiedError("Gone.", mend="Wait."), 2
    ask = {"model": NAME, "prompt": "hello", "stream": True}
    assert http.post("/v1/completions", json=ask, headers=headers).status_code == 200  # it had begun well
    backend.error, backend.fail_after = None, 0
    wanted = {404: "/nowhere", 401: "/v1/models", ExecutorDiedError.http_status: "/v1/completions"}
    with http.stream("GET", STREAM, headers=headers) as reply:
        for line in filter(None, reply.iter_lines()):  # the first snapshot may be older than the failures
            found = msgspec.json.decode(line.removeprefix("data: "), type=Snapshot).failures
            if wanted.items() <= {one.status: one.path for one in found}.items():
                break
    assert all(one.count >= 1 and one.meaning for one in found)
