"""Requests that mean harm: each gets its refusal, and the server goes on answering."""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress

import httpx
import pytest
from tests.client.fake_backend import NAME, FakeBackend

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"model": NAME, "prompt": "abc"}).encode()


def send(http: httpx.Client, data: bytes) -> bytes:
    """The first line of what comes back to raw bytes; nothing where the connection was cut."""
    reply = b""
    address = (http.base_url.host, http.base_url.port or 80)
    with suppress(ConnectionError), socket.create_connection(address, timeout=20) as raw:
        raw.sendall(data)  # may be refused, and closed, before all of it was sent
        while b"\r\n" not in reply and (more := raw.recv(65536)):
            reply += more
    return reply.partition(b"\r\n")[0]


@pytest.mark.parametrize(
    "headers",
    [b"X-Long: " + b"x" * (1 << 20) + b"\r\n", b"".join(b"X-%d: y\r\n" % i for i in range(100_000))],
    ids=["one-megabyte", "hundred-thousand"],
)
def test_giant_headers(http: httpx.Client, headers: bytes) -> None:
    told = send(http, HEAD + headers + b"Content-Length: 0\r\n\r\n")
    assert told == b"" or b" 400 " in told
    assert http.get("/health").status_code == 200


def test_chunks_of_one_byte_are_one_body(http: httpx.Client, backend: FakeBackend) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
    assert b" 200 " in send(http, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)


def test_a_compressed_body_is_not_inflated(http: httpx.Client) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    reply = http.post("/v1/completions", content=b"\x1f\x8b\x08" + b"\0" * 1000, headers=headers)
    assert reply.status_code == 400


@pytest.mark.parametrize("item", [b"-1,", b"1,", b"[],", b"{},", b'"",'])
def test_millions_of_values_are_counted_before_they_are_made(http: httpx.Client, item: bytes) -> None:
    body = b'{"model":"echo","prompt":[' + item * (3_000_000 // len(item) * 2) + b"1]}"
    began = time.monotonic()
    reply = http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert "more than 1048576 values" in reply.json()["error"]["message"]
    assert time.monotonic() - began < 5


def test_two_requests_in_one_do_not_pass(http: httpx.Client, backend: FakeBackend) -> None:
    smuggled = (
        HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert b" 400 " in send(http, smuggled)
    assert not backend.seen


@pytest.mark.parametrize("path", ["/v1/models/%2e%2e%2f%2e%2e%2fetc/passwd", "/v1/models/a%00b", "/v1/models/$(id)%0a"])
def test_model_names_are_names_and_nothing_else(http: httpx.Client, path: str) -> None:
    reply = http.get(path)
    assert reply.status_code == 404
    assert "\n" not in reply.json()["error"]["message"]
