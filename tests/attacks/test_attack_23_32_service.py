"""Attacks 23 to 32: clients that leave or wait, tenants that pry, processes that die."""

from __future__ import annotations

import ast
import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anthropic
import httpx
import ollama
import psutil
import pytest
from tests.attacks.conftest import KEY, gauges, refused
from tests.client.served import served
from tests.engines import LOADER, NAME, worker_path, write_engine
from tests.test_layout import SOURCES
from tests.waiting import until

from ingot.client.embedded import EmbeddedBackend, EmbeddedOptions
from ingot.client.inbox import Inbox
from ingot.runtime.request import Chunk
from ingot.runtime.supervisor import SupervisorOptions

LONG = {"model": NAME, "max_tokens": 300, "stream": True}
TURNS = [{"role": "user", "content": "hi"}]
STREAMS = {
    "/v1/completions": LONG | {"prompt": "hello", "ignore_eos": True, "logprobs": 2, "n": 3},
    "/v1/chat/completions": LONG | {"messages": TURNS, "ignore_eos": True},
    "/v1/messages": LONG | {"messages": TURNS},
    "/v1/responses": {"model": NAME, "input": "hello", "stream": True},
    "/generate_stream": {"inputs": "hello", "parameters": {"max_new_tokens": 300}},
    "/api/chat": {"model": NAME, "messages": TURNS},
}
RUNNING = len(STREAMS) + 2  # one of them asks for three samples


def leave(target: httpx.Client, path: str, after_bytes: int) -> None:
    """Closes the socket at once, or after so many bytes of the answer."""
    body = json.dumps(STREAMS[path]).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    url = target.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=20) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        taken = 0
        while taken < after_bytes and (piece := connection.recv(512)):
            taken += len(piece)


def test_attack_23_a_storm_of_clients_that_leave(attacked: httpx.Client) -> None:
    """The fixture sees that nothing runs afterwards and every page is back; tests/e2e has 500 of them at once."""
    with ThreadPoolExecutor(16) as storm:
        for path in STREAMS:
            for after_bytes in (0, 0, 1, 300, 1500):
                storm.submit(leave, attacked, path, after_bytes)


def test_attack_24_a_reader_that_stops_is_cut() -> None:
    """The socket's side is tests/client/test_streaming.py::test_a_socket_that_takes_nothing_is_cut."""
    inbox = Inbox(limit=100)
    for _ in range(10_000):
        inbox.put([Chunk(index=0, text="x" * 100, token_ids=[1])])
    assert inbox.failed
    assert len(inbox._chunks) <= 100


def test_attack_25_tenants_do_not_see_each_others_prefixes(attacked: httpx.Client) -> None:
    def cached(salt: str | None) -> int:
        body = {"model": NAME, "prompt": "one long prefix that two tenants share " * 3, "max_tokens": 1}
        reply = attacked.post("/v1/completions", json=body | ({"cache_salt": salt} if salt else {})).json()
        return int(reply["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert cached("a") == 0
    assert cached("a") > 0
    assert cached("b") == 0
    assert cached(None) == 0
    assert cached("a") > 0


def test_attack_26_no_name_loads_an_adapter(attacked: httpx.Client) -> None:
    for name in (f"{NAME}:../../adapter", "../adapter", f"{NAME}/adapter"):
        refused(attacked.post("/v1/completions", json={"model": name, "prompt": "x"}), 404)
    adapter = {"inputs": "x", "parameters": {"adapter_id": "../../x"}}
    assert "adapter_id" in attacked.post("/generate", json=adapter).json()["error"]


def test_attack_27_only_the_declared_port_listens(target: httpx.Client) -> None:
    """The executor talks over a socket pair that has no name; that nothing unpickles is tests/test_layout.py's."""
    here = psutil.Process()
    executors = [child for child in here.children(recursive=True) if "ingot.runtime.worker" in child.cmdline()]
    assert executors
    for process in executors:
        assert [one for one in process.net_connections(kind="inet") if one.status == psutil.CONN_LISTEN] == []
        assert [one.laddr for one in process.net_connections(kind="unix") if one.laddr] == []


@pytest.mark.parametrize("evil", ["a\r\nlevel=error forged", "\x1b[31mred\x1b[0m", "x" * 100_000])
def test_attack_28_what_clients_send_forges_no_log(
    target: httpx.Client, caplog: pytest.LogCaptureFixture, evil: str
) -> None:
    for body in ({"model": evil, "prompt": "x"}, {"model": NAME, "prompt": "x", "user": evil, "max_tokens": 1}):
        reply = target.post("/v1/completions", json=body)
        assert reply.status_code in (200, 400, 404)
        assert len(reply.text) < 2000
        assert "\x1b" not in reply.text
    messages = [record.getMessage() for record in caplog.records if not record.name.startswith("httpx")]
    assert not [message for message in messages if "forged" in message or "\x1b" in message]


def test_attack_29_ids_of_stored_answers_cannot_be_guessed(attacked: httpx.Client) -> None:
    """That they are bound to their key is tests/client/test_responses.py's."""
    body = {"model": NAME, "input": "hello", "max_output_tokens": 1}
    ids = [attacked.post("/v1/responses", json=body).json()["id"] for _ in range(20)]
    assert {len(one) for one in ids} == {len("resp_") + 32}
    assert len({one[:13] for one in ids}) == 20
    for guess in ("resp_" + "0" * 32, ids[0][:-1] + "g", "..", "%00"):
        assert attacked.get(f"/v1/responses/{guess}").status_code == 404


def test_attack_30_a_page_that_comes_back_tells_nothing(attacked: httpx.Client) -> None:
    """The fake program reads every token back through its pages, so a stale one would change the answer."""
    ask = {"model": NAME, "prompt": "what was said before?", "max_tokens": 60, "temperature": 0, "seed": 3}
    before = attacked.post("/v1/completions", json=ask | {"cache_salt": "before"}).json()["choices"][0]["text"]
    for number in range(12):  # more than the pool holds
        canary = {"model": NAME, "prompt": f"CANARY {number} " * 30, "max_tokens": 100, "ignore_eos": True}
        attacked.post("/v1/completions", json=canary | {"cache_salt": f"tenant {number}"})
    after = attacked.post("/v1/completions", json=ask | {"cache_salt": "after"}).json()["choices"][0]["text"]
    assert after == before


def test_attack_31_no_check_is_an_assert() -> None:
    """`python -O` drops asserts; those that remain tell the type checker what a line above has made sure of."""

    def narrows(node: ast.Assert) -> bool:
        test = node.test
        if isinstance(test, ast.Compare):
            return isinstance(test.ops[0], ast.IsNot)
        if isinstance(test, ast.Call):
            return isinstance(test.func, ast.Name) and test.func.id == "isinstance"
        return isinstance(test, ast.Attribute)  # a name that a library may leave empty

    asserts = [
        (path, node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert)
    ]
    assert not [(path, node.lineno) for path, node in asserts if not narrows(node)]


def test_attack_32_a_killed_executor_is_told_in_every_dialect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", worker_path())
    engine = write_engine(tmp_path / "engine", step_seconds=0.1, endless=True)
    backend = EmbeddedBackend(engine, EmbeddedOptions(supervisor=SupervisorOptions(loader=LOADER, first_backoff=0.05)))
    with served(backend) as url, ThreadPoolExecutor(len(STREAMS)) as clients, httpx.Client(base_url=url) as http:
        ends = {path: clients.submit(last_words, url, path) for path in STREAMS}
        while gauges(http)[0] < RUNNING:
            time.sleep(0.01)
        executor = next(one for one in psutil.Process().children(recursive=True) if str(engine) in one.cmdline())
        os.kill(executor.pid, signal.SIGKILL)
        for path, end in ends.items():
            assert "executor" in end.result(timeout=60).lower(), path
        until(lambda: http.get("/health").status_code == 200)
        llama = ollama.Client(host=url)
        assert llama.generate(NAME, "again", options={"num_predict": 3}).eval_count
        llama._client.close()
        with anthropic.Anthropic(base_url=url, api_key="x") as claude:
            assert claude.messages.create(model=NAME, max_tokens=3, messages=[{"role": "user", "content": "x"}])


def last_words(url: str, path: str) -> str:
    with httpx.stream("POST", url + path, json=STREAMS[path], timeout=30) as reply:
        lines = [line for line in reply.iter_lines() if line and line != "data: [DONE]"]
    return lines[-1]
