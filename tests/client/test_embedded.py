"""The embedded backend over a real executor process, scheduler and pages; only the model is fake."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.engines import LOADER, NAME, PAGES, worker_path, write_engine
from tests.waiting import until_async

from ingot.client.embedded import EmbeddedBackend, EmbeddedOptions
from ingot.errors import ExecutorDiedError, QueueFullError, RequestError, UnavailableError
from ingot.runtime.params import SamplingParams
from ingot.runtime.request import Chunk, GenerateRequest, Prompt
from ingot.runtime.supervisor import SupervisorOptions

SUPERVISOR = SupervisorOptions(loader=LOADER, first_backoff=0.05)


@pytest.fixture(autouse=True)
def _worker_finds_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", worker_path())


@asynccontextmanager
async def embedded(
    folder: Path, options: EmbeddedOptions | None = None, *, step_seconds: float = 0.005, max_num_seqs: int = 32
) -> AsyncIterator[EmbeddedBackend]:
    engine = write_engine(folder / "engine", step_seconds=step_seconds, max_num_seqs=max_num_seqs)
    backend = EmbeddedBackend(engine, options or EmbeddedOptions(supervisor=SUPERVISOR))
    await backend.start()
    try:
        yield backend
    finally:
        await backend.stop(0)


def ask(name: str, text: str = "hello", *, n: int = 1, max_tokens: int = 400) -> GenerateRequest:
    params = SamplingParams(max_tokens=max_tokens, n=n, seed=1, ignore_eos=True)
    return GenerateRequest(request_id=name, model=NAME, prompt=Prompt(text=text), params=params)


async def everything(backend: EmbeddedBackend, request: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunk in backend.generate(request)]


def held(backend: EmbeddedBackend) -> int:
    stats = backend.supervisor.stats
    assert stats is not None
    assert stats.pages_free + stats.pages_cached + stats.pages_held == PAGES
    return stats.pages_held


async def test_closing_the_iterator_frees_the_pages(tmp_path: Path) -> None:
    async with embedded(tmp_path) as backend:
        async with aclosing(backend.generate(ask("a", n=2))) as chunks:
            await anext(chunks)
            await until_async(lambda: held(backend) > 0)
        await until_async(lambda: held(backend) == 0)


async def test_one_request_alone_and_in_a_crowd_says_the_same(tmp_path: Path) -> None:
    async with embedded(tmp_path, step_seconds=0) as backend:
        alone = await everything(backend, ask("a", max_tokens=50))
        crowd = await asyncio.gather(*(everything(backend, ask(f"b{i}", max_tokens=50)) for i in range(40)))
        for chunks in crowd:
            assert "".join(chunk.text for chunk in chunks) == "".join(chunk.text for chunk in alone)
        assert alone[-1].usage is not None
        assert alone[-1].usage.completion_tokens == 50


async def test_what_the_engine_cannot_hold_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    async with embedded(tmp_path) as backend:
        with pytest.raises(RequestError, match="600"):
            await everything(backend, ask("a", "x" * 600))
        assert (await backend.health()).ready


async def test_the_queue_is_bounded(tmp_path: Path) -> None:
    options = EmbeddedOptions(supervisor=SUPERVISOR, max_queue=2)
    async with embedded(tmp_path, options, max_num_seqs=2) as backend:
        streams = [backend.generate(ask(f"a{i}")) for i in range(4)]
        firsts = [asyncio.create_task(anext(stream)) for stream in streams]
        await asyncio.sleep(0.05)
        with pytest.raises(QueueFullError, match="4 sequences"):
            await everything(backend, ask("b"))
        for first, stream in zip(firsts, streams, strict=True):
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await stream.aclose()
        assert len(await everything(backend, ask("c", max_tokens=3))) == 3


async def test_a_reader_that_stops_is_cut_off(tmp_path: Path) -> None:
    options = EmbeddedOptions(supervisor=SUPERVISOR, max_pending_chunks=20)
    async with embedded(tmp_path, options, step_seconds=0.001) as backend:
        stream = backend.generate(ask("a"))
        await anext(stream)
        await until_async(lambda: held(backend) == 0)
        with pytest.raises(RequestError, match="20 chunks behind"):
            [chunk async for chunk in stream]


async def test_death_fails_every_stream_within_two_seconds_and_service_returns(tmp_path: Path) -> None:
    async with embedded(tmp_path, step_seconds=0.02) as backend:
        streams = [asyncio.create_task(everything(backend, ask(f"a{i}"))) for i in range(8)]
        await until_async(lambda: held(backend) > 0)
        assert backend.supervisor.pid is not None
        os.kill(backend.supervisor.pid, signal.SIGKILL)
        began = time.monotonic()
        results = await asyncio.gather(*streams, return_exceptions=True)
        assert time.monotonic() - began < 2
        assert all(isinstance(result, ExecutorDiedError) for result in results)
        assert not (await backend.health()).ready
        with pytest.raises(UnavailableError):
            await everything(backend, ask("b"))
        await until_async(lambda: backend.supervisor.ready)
        assert (await backend.health()).ready
        assert len(await everything(backend, ask("c", max_tokens=3))) == 3


async def test_stopping_drains_first_and_then_aborts(tmp_path: Path) -> None:
    async with embedded(tmp_path, step_seconds=0.01) as backend:
        short = asyncio.create_task(everything(backend, ask("short", max_tokens=10)))
        long = asyncio.create_task(everything(backend, ask("long")))
        await until_async(lambda: held(backend) > 0)
        stopping = asyncio.create_task(backend.stop(2))
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match="stopping"):
            await everything(backend, ask("late"))
        await stopping
        assert (await short)[-1].finish_reason == "length"
        assert (await long)[-1].finish_reason == "abort"
        assert (await backend.health()).detail == "stopping"


async def test_metrics_carry_the_names_that_dashboards_know(tmp_path: Path) -> None:
    async with embedded(tmp_path) as backend:
        await everything(backend, ask("a", max_tokens=4))
        text = (await backend.metrics()).decode()
    label = f'{{model_name="{NAME}"}}'
    for line in (
        f"ingot:num_requests_running{label} 0.0",
        f"ingot:num_requests_waiting{label} 0.0",
        f"ingot:kv_cache_usage_perc{label} 0.0",
        f"ingot:prompt_tokens_total{label} 5.0",
        f"ingot:generation_tokens_total{label} 4.0",
        f"ingot:num_preemptions_total{label} 0.0",
        f"ingot:time_to_first_token_seconds_count{label} 1.0",
        f"ingot:inter_token_latency_seconds_count{label} 3.0",
        f"ingot:requests_total{label} 1.0",
        f"ingot:request_prefill_time_seconds_count{label} 1.0",
        f"ingot:request_time_per_output_token_seconds_count{label} 1.0",
        f'ingot:request_prompt_tokens_bucket{{le="8.0",model_name="{NAME}"}} 1.0',
        *(
            f'ingot:{name}_count{{finished_reason="length",model_name="{NAME}"}} 1.0'
            for name in (
                "e2e_request_latency_seconds",
                "request_decode_time_seconds",
                "request_inference_time_seconds",
                "request_generation_tokens",
            )
        ),
        f"ingot:request_queue_time_seconds_count{label} 1.0",
        f'ingot:request_success_total{{finished_reason="length",model_name="{NAME}"}} 1.0',
    ):
        assert line in text.splitlines(), text
    assert "ingot:prefix_cache_queries_total" in text
    assert "ingot:prefix_cache_hits_total" in text


async def test_queue_time_ends_when_the_scheduler_first_runs_the_request(tmp_path: Path) -> None:
    async with embedded(tmp_path, max_num_seqs=1) as backend:
        first = backend.generate(ask("first"))
        await anext(first)
        second = asyncio.create_task(everything(backend, ask("second", max_tokens=1)))
        await until_async(lambda: backend.supervisor.stats and backend.supervisor.stats.waiting == 1)
        seen = time.monotonic()
        await until_async(lambda: time.monotonic() - seen > 0.2)
        await first.aclose()
        (chunk,) = await second
        assert chunk.queue_seconds is not None
        assert chunk.queue_seconds > 0.2
        sums = [line for line in (await backend.metrics()).decode().splitlines() if "_time_seconds_sum" in line]
        spent = {line.partition("{")[0]: float(line.split()[-1]) for line in sums}
        assert spent["ingot:request_queue_time_seconds_sum"] > 0.2
        with pytest.raises(RequestError):
            await everything(backend, ask("bad", max_tokens=-1))
        assert 'ingot:request_failure_total{code="invalid_request"' in (await backend.metrics()).decode()


async def test_the_page_of_metrics_names_every_figure(tmp_path: Path) -> None:
    async with embedded(tmp_path) as backend:
        families = text_string_to_metric_families((await backend.metrics()).decode())
        made = {f"{one.name}_total" if one.type == "counter" else one.name for one in families}
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert set(re.findall(r"`(ingot:\w+)`", page)) == {name for name in made if not name.endswith("_created")}


async def test_the_checkpoints_own_sampling_stands_on_the_card_unless_switched_off(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "engine", generation_config={"temperature": 0.6, "top_k": 20})
    for wanted, sampling in ((True, {"temperature": 0.6, "top_k": 20}), (False, {})):
        backend = EmbeddedBackend(engine, EmbeddedOptions(supervisor=SUPERVISOR, generation_config=wanted))
        await backend.start()
        (card,) = await backend.models()
        await backend.stop(0)
        assert card.sampling == sampling
