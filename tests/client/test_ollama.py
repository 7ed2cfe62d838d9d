"""Ollama's routes as its own client sees them, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest
from ollama import _types as official
from tests.client.fake_backend import NAME, FakeBackend

from ingot.client.ollama.schema import (
    REFUSED_GENERATE,
    REFUSED_OPTIONS,
    ChatRequest,
    GenerateRequest,
    Options,
)
from ingot.errors import ExecutorDiedError, QueueFullError

HELLO = [{"role": "user", "content": "héllo"}]
BODY = {"model": NAME, "prompt": "hi", "stream": False}


@pytest.fixture(scope="module")
def llama(server: tuple[FakeBackend, str]) -> Iterator[ollama.Client]:
    client = ollama.Client(host=server[1], verify=False)
    yield client
    client._client.close()


def test_chat(llama: ollama.Client, backend: FakeBackend) -> None:
    reply = llama.chat(NAME + ":latest", HELLO)
    assert (reply.message.role, reply.message.content) == ("assistant", "HÉLLO")
    assert (reply.model, reply.done, reply.done_reason) == (NAME + ":latest", True, "stop")
    assert (reply.prompt_eval_count, reply.eval_count) == (5, 5)
    assert reply.total_duration is not None
    assert reply.total_duration >= (reply.eval_duration or 0) > 0


def test_chat_streams_lines(llama: ollama.Client, http: httpx.Client, backend: FakeBackend) -> None:
    pieces = [*llama.chat(NAME, HELLO, stream=True)]
    assert "".join(piece.message.content or "" for piece in pieces) == "HÉLLO"
    assert [piece.done for piece in pieces] == [False] * 5 + [True]
    assert (pieces[-1].done_reason, pieces[-1].eval_count) == ("stop", 5)
    raw = http.post("/api/chat", json={"model": NAME, "messages": HELLO})
    assert raw.headers["content-type"].startswith("application/x-ndjson")
    assert len(raw.text.splitlines()) == 6


def test_generate(llama: ollama.Client, backend: FakeBackend) -> None:
    assert llama.generate(NAME, "hello", system="Shout.").response == "HELLO"
    assert backend.seen[-1].prompt.messages == [
        {"role": "system", "content": "Shout."},
        {"role": "user", "content": "hello"},
    ]
    pieces = [*llama.generate(NAME, "hello", raw=True, stream=True, options={"num_predict": 3})]
    assert "".join(piece.response or "" for piece in pieces) == "HEL"
    assert pieces[-1].done_reason == "length"
    assert backend.seen[-1].prompt.text == "hello"


def test_logprobs(llama: ollama.Client, backend: FakeBackend) -> None:
    reply = llama.chat(NAME, HELLO, logprobs=True, top_logprobs=2)
    assert [one.token for one in reply.logprobs or []] == [*"HÉLLO"]
    assert len((reply.logprobs or [])[0].top_logprobs or []) == 2
    piece = next(iter(llama.generate(NAME, "hello", logprobs=True, stream=True)))
    assert [one.token for one in piece.logprobs or []] == ["H"]


def test_nothing_to_say_loads(llama: ollama.Client, backend: FakeBackend) -> None:
    assert llama.generate(NAME).done_reason == "load"
    assert llama.chat(NAME).done_reason == "load"
    assert backend.seen == []


def test_options_reach_the_backend(llama: ollama.Client, backend: FakeBackend) -> None:
    options = ollama.Options(
        temperature=0.5,
        top_k=7,
        top_p=0.8,
        seed=5,
        num_predict=20,
        repeat_penalty=1.2,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        stop=["END"],
        num_ctx=512,
        num_gpu=1,
        mirostat=0,
    )
    llama.chat(NAME, HELLO, options=options, keep_alive="5m")
    params = backend.seen[-1].params
    assert (params.temperature, params.top_k, params.top_p, params.seed, params.max_tokens) == (0.5, 7, 0.8, 5, 20)
    assert (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) == (1.2, 0.1, 0.2)
    assert params.stop == ("END",)
    llama.chat(NAME, HELLO)
    params = backend.seen[-1].params
    assert (params.temperature, params.top_k, params.top_p, params.max_tokens) == (0.8, 40, 0.9, None)


def test_models(llama: ollama.Client) -> None:
    (model,) = llama.list().models
    assert (model.model, model.digest) == (NAME, "abc")
    shown = llama.show(NAME)
    assert (shown.modelinfo or {})["ingot.context_length"] == 512
    assert shown.capabilities == ["completion"]


def test_every_official_field_is_used_or_refused() -> None:
    for theirs, ours, refused in (
        (official.ChatRequest, ChatRequest, dict[str, Any]()),
        (official.GenerateRequest, GenerateRequest, REFUSED_GENERATE),
        (official.Options, Options, REFUSED_OPTIONS),
    ):
        assert len(theirs.model_fields) > 8
        assert theirs.model_fields.keys() <= ours.model_fields.keys() | refused.keys()
        assert not ours.model_fields.keys() & refused.keys()


@pytest.mark.parametrize("name", sorted(REFUSED_GENERATE))
def test_refused_fields_are_refused_by_name(http: httpx.Client, backend: FakeBackend, name: str) -> None:
    reply = http.post("/api/generate", json=BODY | {name: ["anything", 1]})
    assert reply.status_code == 400
    assert f"'{name}'" in reply.json()["error"]


@pytest.mark.parametrize(
    "options",
    [{"mirostat": 2}, {"typical_p": 0.5}, {"num_ctx": 513}, {"temperature": -1}, {"no_such": 1}, {"stop": "x"}],
)
def test_options_that_cannot_be_honoured_are_refused(
    http: httpx.Client, backend: FakeBackend, options: dict[str, Any]
) -> None:
    reply = http.post("/api/generate", json=BODY | {"options": options})
    assert reply.status_code == 400
    assert f"'{next(iter(options))}'" in reply.json()["error"]
    assert backend.seen == []


def test_failures_are_the_clients_own(llama: ollama.Client, backend: FakeBackend) -> None:
    with pytest.raises(ollama.ResponseError, match="No model is called") as unknown:
        llama.chat("other", HELLO)
    assert unknown.value.status_code == 404
    backend.error = QueueFullError("Full.", mend="Wait.")
    with pytest.raises(ollama.ResponseError, match="Full") as full:
        [*llama.chat(NAME, HELLO, stream=True)]
    assert full.value.status_code == 429
    backend.error, backend.fail_after = ExecutorDiedError("It died.", mend="Send it again."), 2
    stream = llama.chat(NAME, HELLO, stream=True)
    assert next(stream).message.content == "H"
    with pytest.raises(ollama.ResponseError, match="It died"):
        list(stream)
