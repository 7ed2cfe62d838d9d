"""Attacks 17 to 20: bodies, numbers and tokens that are too much."""

from __future__ import annotations

import gzip
import json
import socket
from typing import Any

import httpx
import pytest
from tests.attacks.conftest import KEY, refused
from tests.engines import NAME

TEXT = {"model": NAME, "prompt": "hi", "max_tokens": 2}
CHAT = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
MESSAGES = CHAT
JSON = {"Content-Type": "application/json"}
ROUTES = ("/v1/completions", "/v1/messages", "/v1/responses", "/generate", "/api/chat")


def raw(target: httpx.Client, head: str, *pieces: bytes) -> bytes:
    """What the server says to bytes that no client library would send."""
    url = target.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=20) as connection:
        try:
            connection.sendall(head.encode())
            for piece in pieces:
                connection.sendall(piece)
            return connection.recv(4096)
        except (BrokenPipeError, ConnectionResetError):
            return b"cut"


@pytest.mark.parametrize("route", ROUTES)
def test_attack_17_deep_wide_and_broken_bodies(attacked: httpx.Client, route: str) -> None:
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    wide = json.dumps({str(number): 1 for number in range(50_000)}).encode()
    for content in (
        deep,
        wide,
        b"[" * 100_000,
        b"\xff\xfe{}",
        b"",
        b"null",
        b'{"model": NaN}',
        gzip.compress(bytes(1 << 20)),
    ):
        reply = attacked.post(route, content=content, headers=JSON)
        assert reply.status_code == 400, (content[:20], reply.text)
        assert len(reply.text) < 1000


def test_attack_17_bodies_are_bounded_however_they_come(attacked: httpx.Client) -> None:
    start = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    )
    said = raw(attacked, start + f"Content-Length: {1 << 30}\r\n\r\n")
    assert b" 413 " in said
    megabyte = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    said = raw(attacked, start + "Transfer-Encoding: chunked\r\n\r\n", *[megabyte] * 8)
    assert b" 413 " in said or said == b"cut"
    body = json.dumps(TEXT).encode()
    dribble = [b"1\r\n%c\r\n" % byte for byte in body]
    assert b" 200 " in raw(attacked, start + "Transfer-Encoding: chunked\r\n\r\n", *dribble, b"0\r\n\r\n")


def test_attack_17_headers_are_bounded(attacked: httpx.Client) -> None:
    many = "".join(f"X-{number}: y\r\n" for number in range(100_000))
    for headers in ("X-Long: " + "y" * (1 << 20) + "\r\n", many):
        said = raw(attacked, f"GET /health HTTP/1.1\r\nHost: x\r\n{headers}\r\n")
        assert said == b"cut" or b" 400 " in said or b" 431 " in said


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2**31},
        {"best_of": 2**31},
        {"max_tokens": 2**63},
        {"max_tokens": -1},
        {"temperature": -0.1},
        {"temperature": 1e308},
        {"top_k": -5},
        {"top_p": 0},
        {"logit_bias": {"-1": 1}},
        {"logit_bias": {"97": 1}},
        {"logit_bias": {str(number): 1 for number in range(4000)}},
        {"logit_bias": {"1": 1e9}},
        {"stop": ["x"] * 10_000},
        {"stop": "x" * 10_000},
        {"stop": [""]},
        {"seed": 2**64},
        {"logprobs": 10**6},
        {"priority": 2**40},
        {"min_tokens": 3},
    ],
    ids=lambda fields: f"{next(iter(fields))}-{str(next(iter(fields.values())))[:12]}",
)
def test_attack_18_numbers_out_of_range(target: httpx.Client, fields: dict[str, Any]) -> None:
    name = next(iter(fields))
    assert name in refused(target.post("/v1/completions", json=TEXT | fields))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "9" * 5000])
def test_attack_18_numbers_that_are_none(target: httpx.Client, number: str) -> None:
    for name in ("temperature", "max_tokens"):
        content = json.dumps(TEXT).replace('"hi"', f'"hi", "{name}": {number}', 1).replace(', "max_tokens": 2', "", 1)
        refused(target.post("/v1/completions", content=content.encode(), headers=JSON))


def test_attack_18_the_other_dialects_refuse_them_too(attacked: httpx.Client) -> None:
    turns = CHAT["messages"]
    for path, body in (
        ("/v1/messages", {"model": NAME, "messages": turns, "max_tokens": 2**63}),
        ("/v1/messages", {"model": NAME, "messages": turns, "max_tokens": 2, "temperature": 3}),
        ("/v1/messages", {"model": NAME, "messages": turns, "max_tokens": 2, "top_k": -5}),
        ("/v1/messages", {"model": NAME, "messages": turns, "max_tokens": 2, "stop_sequences": ["x"] * 10_000}),
        ("/v1/responses", {"model": NAME, "input": "x", "max_output_tokens": -1}),
        ("/v1/responses", {"model": NAME, "input": "x", "metadata": {str(number): "x" for number in range(99)}}),
        ("/generate", {"inputs": "x", "parameters": {"best_of": 2**31}}),
        ("/generate", {"inputs": "x", "parameters": {"truncate": -1}}),
        ("/generate", {"inputs": "x", "parameters": {"top_n_tokens": 10**6}}),
        ("/api/generate", {"model": NAME, "prompt": "x", "options": {"num_predict": 2**63}}),
        ("/api/generate", {"model": NAME, "prompt": "x", "options": {"seed": 2**64}}),
        ("/api/generate", {"model": NAME, "prompt": "x", "options": {"top_p": -1}}),
    ):
        reply = attacked.post(path, json=body)
        assert reply.status_code == 400, (path, body, reply.text[:200])


@pytest.mark.parametrize("prompt", [[97], [-1], [2**31], [2**70], [], "", [[1], []], [1.5], ["a", 1]])
def test_attack_19_tokens_out_of_the_vocabulary(target: httpx.Client, prompt: Any) -> None:
    refused(target.post("/v1/completions", json=TEXT | {"prompt": prompt}))


def test_attack_19_prompts_at_and_past_the_engines_length(attacked: httpx.Client) -> None:
    for length, status in ((511, 200), (512, 400), (513, 400)):
        reply = attacked.post("/v1/completions", json=TEXT | {"prompt": [1] * length, "max_tokens": 1})
        assert reply.status_code == status, reply.text
    assert "characters" in refused(attacked.post("/v1/completions", json=TEXT | {"prompt": "a" * 1_000_000}))


@pytest.mark.parametrize("route", ["/v1/completions", "/v1/chat/completions"])
def test_attack_19_lone_surrogates(target: httpx.Client, route: str) -> None:
    body = json.dumps(TEXT if route.endswith("v1/completions") else CHAT).replace('"hi"', '"\\ud800"')
    refused(target.post(route, content=body.encode(), headers=JSON))


@pytest.mark.parametrize("name", ["prompt_embeds", "prompt_embedding", "inputs_embeds", "multi_modal_data"])
def test_attack_20_tensors_are_not_taken(target: httpx.Client, name: str) -> None:
    assert name in refused(target.post("/v1/completions", json=TEXT | {name: "gASVAAAAAA=="}))
