"""A served engine under clients that leave and an executor that dies: pages come back, errors arrive, service returns."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.client.served import served
from tests.engines import LOADER, NAME, PAGES, worker_path, write_engine
from tests.waiting import until

from ingot.client.embedded import EmbeddedBackend, EmbeddedOptions
from ingot.runtime.supervisor import SupervisorOptions
from ingot.runtime.worker import HEARTBEAT_SECONDS

CLIENTS = 500


@pytest.fixture
def service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[tuple[EmbeddedBackend, str]]:
    monkeypatch.setenv("PYTHONPATH", worker_path())
    engine = write_engine(tmp_path / "engine", step_seconds=request.param)
    options = EmbeddedOptions(supervisor=SupervisorOptions(loader=LOADER, first_backoff=0.5))
    backend = EmbeddedBackend(engine, options)
    with served(backend) as url:
        yield backend, url


def gauge(url: str, name: str) -> float:
    lines = httpx.get(url + "/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"ingot:{name}{{")).split()[-1])


def body_of(rng: random.Random, number: int) -> dict[str, Any]:
    body: dict[str, Any] = {"model": NAME, "max_tokens": 200, "ignore_eos": True, "stream": rng.random() < 0.8}
    body |= {"n": rng.choice([1, 1, 2]), "seed": number}
    prompt = f"client {number} says " + "hello " * rng.randrange(12)
    if rng.random() < 0.5:
        return body | {"prompt": prompt, "logprobs": rng.choice([None, 2])}
    return body | {"messages": [{"role": "user", "content": prompt}]}


async def leave_at_a_random_token(port: int, rng: random.Random, number: int) -> None:
    """Sends one request, reads some events, and drops the connection without a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    fields = body_of(rng, number)
    path = "/v1/chat/completions" if "messages" in fields else "/v1/completions"
    body = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    wanted, seen = rng.randrange(8), 0
    try:
        async with asyncio.timeout(rng.uniform(0.05, 2)):
            while seen < wanted and (data := await reader.read(65536)):
                seen += data.count(b"data: ")
    except TimeoutError:
        pass  # it had not begun: left while waiting
    if rng.random() < 0.5:
        writer.transport.abort()
    else:
        writer.close()


async def storm(port: int) -> None:
    rng = random.Random(7)
    await asyncio.gather(*(leave_at_a_random_token(port, random.Random(rng.random()), i) for i in range(CLIENTS)))


@pytest.mark.parametrize("service", [0.004], indirect=True)
def test_an_abort_storm_leaves_the_pool_as_before(service: tuple[EmbeddedBackend, str]) -> None:
    backend, url = service
    asyncio.run(storm(int(url.rpartition(":")[2])))

    def pool_is_whole() -> bool:
        stats = backend.supervisor.stats
        assert stats is not None
        assert stats.pages_free + stats.pages_cached + stats.pages_held == stats.pages_total == PAGES
        return stats.pages_held == 0 and stats.running == stats.waiting == 0

    with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        # connections are taken in order, so this one is answered when the whole storm has been taken in
        reply = client.completions.create(
            model=NAME, prompt="still there?", max_tokens=20, extra_body={"ignore_eos": True}
        )
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 20
    until(pool_is_whole)
    time.sleep(2 * HEARTBEAT_SECONDS)
    assert pool_is_whole()
    assert gauge(url, "kv_cache_usage_perc") == gauge(url, "num_requests_running") == 0
    assert gauge(url, "prompt_tokens_total") > CLIENTS / 10  # a good part of the storm had begun
    assert httpx.get(url + "/health").status_code == 200
    assert backend.supervisor.restarts == 0


@pytest.mark.parametrize("service", [0.2], indirect=True)  # 40 s a stream: none ends before the kill
def test_a_killed_executor_is_seen_told_and_replaced(service: tuple[EmbeddedBackend, str]) -> None:
    backend, url = service
    errors: list[tuple[float, str | None]] = []

    def read_to_the_end() -> None:
        with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(
                model=NAME,
                messages=[{"role": "user", "content": "hello"}],
                stream=True,
                max_tokens=200,  # eight of them fit the pool
                extra_body={"ignore_eos": True},
            )
            with pytest.raises(openai.APIError) as caught:
                deque(stream, maxlen=0)
            errors.append((time.monotonic(), caught.value.code))

    readers = [threading.Thread(target=read_to_the_end) for _ in range(8)]
    for reader in readers:
        reader.start()
    until(lambda: gauge(url, "num_requests_running") == 8)
    assert backend.supervisor.pid is not None
    os.kill(backend.supervisor.pid, signal.SIGKILL)
    killed = time.monotonic()
    assert until(lambda: httpx.get(url + "/health").status_code == 503, seconds=2) < 2
    for reader in readers:
        reader.join()
    assert [code for _, code in errors] == ["executor_died"] * 8
    assert max(when for when, _ in errors) - killed < 2
    refused = httpx.post(url + "/v1/completions", json={"model": NAME, "prompt": "x"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
    until(lambda: httpx.get(url + "/health").status_code == 200)
    assert httpx.post(url + "/v1/completions", json={"model": NAME, "prompt": "x"}).status_code == 200
