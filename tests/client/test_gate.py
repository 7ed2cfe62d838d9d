"""Keys, body sizes and request ids: what every request passes, whatever its route."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import httpx
import pytest
from starlette.routing import Route
from tests.client.fake_backend import NAME, FakeBackend
from tests.client.served import served
from tests.waiting import until

from ingot.client.openai.app import create_app
from ingot.client.openai.gate import GateOptions
from ingot.client.page.paths import OPEN_FILES

KEYS = ("first key", "second")
LIMIT = 4096


@pytest.fixture(scope="module")
def guarded() -> Iterator[httpx.Client]:
    options = GateOptions(api_keys=KEYS, max_body_bytes=LIMIT)
    with served(FakeBackend(), options) as url, httpx.Client(base_url=url, verify=False) as http:
        yield http


def every_route() -> list[tuple[str, str]]:
    routes = [route for route in create_app(FakeBackend()).routes if isinstance(route, Route)]
    return sorted(
        {(method, route.path.replace("{name:path}", NAME)) for route in routes for method in route.methods or ()}
        - {(method, path) for method in ("GET", "HEAD") for path in OPEN_FILES}  # they hold no figures
    )


def test_the_walk_sees_the_routes() -> None:
    paths = {path for _, path in every_route()}
    assert {
        "/health",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/page/stream",
        "/v1/chat/completions",
        "/tokenize",
    } <= paths


@pytest.mark.parametrize(("method", "path"), [*every_route(), ("GET", "/nowhere"), ("OPTIONS", "/v1/models")])
def test_nothing_answers_without_a_key(guarded: httpx.Client, method: str, path: str) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic second"},
        {"Authorization": "second"},
    ):
        reply = guarded.request(method, path, headers=headers)
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        if method != "HEAD":
            assert reply.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens(guarded: httpx.Client, key: str) -> None:
    assert guarded.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_health_can_be_left_open() -> None:
    with served(FakeBackend(), GateOptions(api_keys=KEYS, open_health=True)) as url:
        assert httpx.get(url + "/health").status_code == 200
        assert httpx.get(url + "/metrics").status_code == 401


def test_bodies_are_bounded(guarded: httpx.Client) -> None:
    headers = {"Authorization": "Bearer second", "Content-Type": "application/json"}
    large = json.dumps({"model": NAME, "prompt": "x" * LIMIT}).encode()
    said = guarded.post("/v1/completions", content=large, headers=headers)
    unsaid = guarded.post("/v1/completions", content=iter([large[:3000], large[3000:]]), headers=headers)
    assert said.status_code == unsaid.status_code == 413
    assert said.json()["error"]["message"] == unsaid.json()["error"]["message"]


@pytest.mark.parametrize("given", ["", "x" * 5000, "a\x07b", "a\x1b[31m"])
def test_request_ids_that_could_harm_a_log_are_replaced(guarded: httpx.Client, given: str) -> None:
    url = guarded.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=5) as raw:
        raw.sendall(f"GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: {given}\r\nConnection: close\r\n\r\n".encode())
        reply = b"".join(iter(lambda: raw.recv(65536), b"")).decode()
    assert f"X-Request-Id: {given}\r\n".lower() not in reply.lower() or not given
    assert " 401 " in reply or " 400 " in reply


def test_a_sane_request_id_comes_back(guarded: httpx.Client) -> None:
    assert guarded.get("/health", headers={"X-Request-Id": "job-7"}).headers["x-request-id"] == "job-7"
    assert len(guarded.get("/health").headers["x-request-id"]) == 32


ASK = {"model": NAME, "prompt": "abcdef"}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_keys_rate_is_its_own() -> None:
    keys = ("slow=s rpm=2", "free=f")
    with served(FakeBackend(), GateOptions(api_keys=keys)) as url, httpx.Client(base_url=url) as http:
        replies = [http.post("/v1/completions", json=ASK, headers=bearer("s")) for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200, 200, 429]
        assert [reply.headers["x-ratelimit-limit-requests"] for reply in replies] == ["2"] * 3
        assert [reply.headers["x-ratelimit-remaining-requests"] for reply in replies] == ["1", "0", "0"]
        assert 1 <= int(replies[2].headers["retry-after"]) <= 30
        assert replies[2].json()["error"]["code"] == "rate_limit_exceeded"
        assert http.get("/v1/models", headers=bearer("s")).status_code == 200
        free = http.post("/v1/completions", json=ASK, headers=bearer("f"))
        assert (free.status_code, "x-ratelimit-limit-requests" in free.headers) == (200, False)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (GateOptions(api_keys=("one=k concurrent=1",)), "rate_limit_exceeded"),
        (GateOptions(api_keys=("one=k",), max_concurrent=1), "queue_full"),
    ],
    ids=["key", "server"],
)
def test_concurrent_requests_are_bounded_and_counted_to_the_end_of_the_stream(options: GateOptions, code: str) -> None:
    backend = FakeBackend()
    with served(backend, options) as url, httpx.Client(base_url=url, headers=bearer("k")) as http:
        backend.endless = True
        with http.stream("POST", "/v1/completions", json=ASK | {"stream": True}) as running:
            events = running.iter_bytes()
            next(events)
            refused = httpx.post(url + "/v1/completions", json=ASK, headers=bearer("k"))
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, code)
            assert refused.headers["retry-after"] == "1"
        until(lambda: backend.live == 0)
        backend.endless = False
        assert http.post("/v1/completions", json=ASK).status_code == 200


def test_headers_that_come_whole_are_bounded_too(guarded: httpx.Client) -> None:
    many = {f"X-{number}": "y" * 100 for number in range(200)}
    reply = guarded.get("/v1/models", headers=bearer("second") | many)
    assert reply.status_code == 431
    assert "16384 are allowed" in reply.json()["error"]["message"]


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    options = GateOptions(body_seconds=0.2)
    with served(FakeBackend(), options) as url, socket.create_connection(("127.0.0.1", int(url[-5:]))) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        raw.sendall(b"Content-Length: 100\r\nConnection: close\r\n\r\n{")
        raw.settimeout(20)
        reply = b"".join(iter(lambda: raw.recv(65536), b""))
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.2 s" in reply
