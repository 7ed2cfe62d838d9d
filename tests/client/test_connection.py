"""Connections that try a server's patience: half a request, an answer that nobody reads, too many at once."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import psutil
import pytest
from tests.client.fake_backend import NAME, FakeBackend
from tests.client.served import served
from tests.waiting import until

from ingot.client.connection import Patience
from ingot.client.openai.serve import ServeOptions

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
PATIENCE = Patience(header_seconds=0.4, stall_seconds=0.4, max_connections=20)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(FakeBackend(), ServeOptions(patience=PATIENCE, log_level="warning")) as url:
        yield url


def connect(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20)


def is_cut(raw: socket.socket) -> bool:
    """Waits for what comes next; True where it is the end."""
    try:
        return raw.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", b"POST /v1/comple", b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: "])
def test_half_a_request_is_not_waited_for(url: str, sent: bytes) -> None:
    with connect(url) as raw:
        raw.sendall(sent)
        assert is_cut(raw)


def test_a_slow_request_that_ends_in_time_is_answered(url: str) -> None:
    body = json.dumps({"model": NAME, "prompt": "abc"}).encode()
    request = HEAD % len(body) + body
    with connect(url) as raw:
        for place in range(0, len(request), 40):
            raw.sendall(request[place : place + 40])
        assert raw.recv(12) == b"HTTP/1.1 200"


def test_a_connection_that_asks_and_asks_is_kept() -> None:
    """It waits for headers whenever it is looked at, and yet never for long."""
    patience = Patience(header_seconds=1)
    with served(FakeBackend(), ServeOptions(patience=patience, log_level="warning")) as url, httpx.Client() as client:
        ports = set()
        end = time.monotonic() + 3 * patience.header_seconds
        while time.monotonic() < end:
            reply = client.get(url + "/health")
            ports.add(reply.extensions["network_stream"].get_extra_info("client_addr")[1])
            time.sleep(0.02)
        assert len(ports) == 1


def test_an_answer_that_nobody_reads_is_cut(url: str) -> None:
    """Far more than sockets buffer; the transport is aborted, so not even what was written stays."""
    body = json.dumps({"model": NAME, "prompt": "x" * 100, "n": 32, "logprobs": 20, "echo": True}).encode()
    with connect(url) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.sendall(HEAD % len(body) + body)
        until(lambda: open_at(raw.getsockname()[1]) == 2)
        until(lambda: open_at(raw.getsockname()[1]) == 1)
    assert httpx.get(url + "/health").status_code == 200


def test_connections_are_bounded() -> None:
    patience = Patience(header_seconds=3600, max_connections=20)
    with served(FakeBackend(), ServeOptions(patience=patience, log_level="warning")) as url:
        with ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(connect(url))
            assert is_cut(stack.enter_context(connect(url)))
        until(lambda: is_answered(url))


def open_at(port: int) -> int:
    """Sockets of this process, the server's and the tests', on a connection with that port."""
    found = psutil.Process().net_connections(kind="tcp")
    return sum(port in (one.laddr.port, one.raddr.port if one.raddr else 0) for one in found)


def is_answered(url: str) -> bool:
    try:
        return httpx.get(url + "/health").status_code == 200
    except httpx.TransportError:
        return False
