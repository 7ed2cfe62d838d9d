"""One served engine for all attacks. After each it must be ready, a bystander's stream whole, and every page back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.client.served import served
from tests.engines import LOADER, NAME, worker_path, write_engine
from tests.waiting import until

from ingot.client.embedded import EmbeddedBackend, EmbeddedOptions
from ingot.client.openai.gate import GateOptions
from ingot.runtime.supervisor import SupervisorOptions

KEY = "the-secret-key-of-these-tests"
BYSTANDER = {"model": NAME, "prompt": "bystander", "max_tokens": 150, "ignore_eos": True, "seed": 1, "temperature": 0}


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    engine = write_engine(tmp_path_factory.mktemp("attacked") / "engine", step_seconds=0.001)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", worker_path())
        backend = EmbeddedBackend(engine, EmbeddedOptions(supervisor=SupervisorOptions(loader=LOADER)))
        headers = {"Authorization": f"Bearer {KEY}"}
        options = GateOptions(api_keys=(KEY,), max_body_bytes=2 << 20)
        with served(backend, options) as url, httpx.Client(base_url=url, headers=headers, verify=False) as http:
            yield http


@pytest.fixture
def attacked(target: httpx.Client) -> Iterator[httpx.Client]:
    """What the pass criterion of every attack asks of the server."""
    alone = target.post("/v1/completions", json=BYSTANDER).json()["choices"][0]["text"]
    beside: list[Any] = []
    thread = threading.Thread(target=lambda: beside.append(target.post("/v1/completions", json=BYSTANDER).json()))
    thread.start()
    yield target
    thread.join()
    assert beside[0]["choices"][0]["text"] == alone
    assert target.get("/health").status_code == 200
    until(lambda: gauges(target) == (0.0, 0.0, 0.0))  # all sequences end, all pages come back


def gauges(target: httpx.Client) -> tuple[float, ...]:
    """As the executor's last heartbeat says."""
    lines = target.get("/metrics").text.splitlines()
    wanted = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    return tuple(float(line.split()[-1]) for name in wanted for line in lines if line.startswith(f"ingot:{name}{{"))


def refused(reply: httpx.Response, status: int = 400) -> str:
    """The message of a refusal that shows nothing of the server's insides."""
    assert reply.status_code == status, reply.text[:300]
    message = str(reply.json()["error"]["message"])
    assert 10 < len(message) < 2000
    for inside in (KEY, "Traceback", "0x7", str(Path(__file__).parents[2])):
        assert inside not in message
    return message
