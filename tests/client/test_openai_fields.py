"""Every field of the official client's types is honoured or refused, and whatever is refused is refused by name."""

from __future__ import annotations

import json
from typing import Any, get_type_hints

import httpx
import openai
import pytest
from openai.types import batch_create_params, completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from tests.client.fake_backend import NAME, FakeBackend

from ingot.client.openai.body import MAX_DEPTH
from ingot.client.openai.convert import REFUSED, USED

CHAT: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": NAME, "prompt": "hi"}
OFFICIAL = {
    "chat": (
        chat_create_params.CompletionCreateParamsNonStreaming,
        chat_create_params.CompletionCreateParamsStreaming,
    ),
    "completions": (
        completion_create_params.CompletionCreateParamsNonStreaming,
        completion_create_params.CompletionCreateParamsStreaming,
    ),
    "embeddings": (embedding_create_params.EmbeddingCreateParams,),
    "batches": (batch_create_params.BatchCreateParams,),
}


@pytest.mark.parametrize(("route", "least"), [("chat", 16), ("completions", 16), ("embeddings", 5), ("batches", 5)])
def test_every_official_field_is_used_or_refused(route: str, least: int) -> None:
    official = {name for kind in OFFICIAL[route] for name in get_type_hints(kind)}
    assert len(official) >= least
    assert official <= USED[route] | REFUSED[route].keys()
    assert not USED[route] & REFUSED[route].keys()


def ask(http: httpx.Client, body: Any, route: str = "chat") -> httpx.Response:
    return http.post(f"/v1/{'chat/completions' if route == 'chat' else 'completions'}", json=body)


@pytest.mark.parametrize("route", ["chat", "completions"])
def test_null_is_as_good_as_absent(http: httpx.Client, backend: FakeBackend, route: str) -> None:
    body = CHAT if route == "chat" else TEXT
    fields = USED[route] | REFUSED[route].keys()
    reply = ask(http, dict.fromkeys(fields, None) | body, route)
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("name", sorted(REFUSED["chat"]))
def test_refused_fields_are_refused_by_name(http: httpx.Client, backend: FakeBackend, name: str) -> None:
    reply = ask(http, CHAT | {name: ["anything", 1]})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["param"], error["type"]) == (name, "invalid_request_error")


def test_harmless_values_pass(http: httpx.Client, backend: FakeBackend) -> None:
    harmless = {
        "store": False,
        "user": "me",
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "tool_choice": "none",
        "modalities": ["text"],
        "reasoning_effort": "none",
        "safety_identifier": "me",
        "prompt_cache_key": "k",
        "verbosity": "medium",
        "add_special_tokens": False,
        "n": 1,
    }
    assert ask(http, CHAT | harmless).status_code == 200


def test_an_answer_may_be_sent_back_as_it_is_dumped(client: openai.OpenAI, backend: FakeBackend) -> None:
    """Applications dump the client's own message, nulls and all."""
    message = client.chat.completions.create(**CHAT).choices[0].message.model_dump()
    assert message["audio"] is None
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    called = message | {"content": None, "tool_calls": [call], "annotations": []}
    turns = [*CHAT["messages"], message, called, {"role": "tool", "tool_call_id": "call_1", "content": "x"}]
    client.chat.completions.create(model=NAME, messages=turns)
    _, said, asked, _ = backend.seen[-1].prompt.messages or []
    assert said == {"role": "assistant", "content": "HI"}
    assert asked.keys() == {"role", "content", "tool_calls"}
    assert asked["tool_calls"] == [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": {}}}]


FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def test_tools_reach_the_template_only_where_none_may_be_called(http: httpx.Client, backend: FakeBackend) -> None:
    assert ask(http, CHAT | {"tools": [FUNCTION]}).json()["error"]["param"] == "tools"
    assert ask(http, CHAT | {"tools": [FUNCTION], "tool_choice": "none"}).status_code == 200
    assert backend.seen[-1].prompt.tools == [FUNCTION]


BAD_CHAT: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "owner", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "file:///x"}]}]},
        "messages[0].content",
    ),
    ({"n": 1 << 31}, "n"),
    ({"n": 0}, "n"),
    ({"n": True}, "n"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1 << 70}, "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_k": -5}, "top_k"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 1, "01": 2}}, "logit_bias"),
    ({"logit_bias": {str(i): 1 for i in range(2000)}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"stop": ["x"] * 10_000}, "stop"),
    ({"stop": ""}, "stop"),
    ({"seed": 1 << 64}, "seed"),
    ({"top_logprobs": 5}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 1_000_000}, "top_logprobs"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, "stream_options"),
    ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
    ({"add_special_tokens": True}, "add_special_tokens"),
    ({"continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt"),
    ({"response_format": {"type": "text", "json_schema": {"name": "x", "schema": {}}}}, "response_format"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"reasoning_effort": "much"}, "reasoning_effort"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop_token_ids": [1] * 129}, "stop_token_ids"),
    ({"user": "x" * 1025}, "user"),
    ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
    ({"chat_template": "{{ evil }}"}, "chat_template"),
    ({"temprature": 1}, "temprature"),
    ({"cache_salt": ""}, "cache_salt"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_CHAT, ids=[f"{param}-{i}" for i, (_, param) in enumerate(BAD_CHAT)])
def test_bad_values_are_refused_by_name(
    http: httpx.Client, backend: FakeBackend, fields: dict[str, Any], param: str
) -> None:
    reply = ask(http, CHAT | fields)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert not backend.seen


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, -1]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
    ],
)
def test_bad_completions_are_refused_by_name(
    http: httpx.Client, backend: FakeBackend, fields: dict[str, Any], param: str
) -> None:
    reply = ask(http, TEXT | fields, "completions")
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"model": NaN}',
        b'{"model": "\\ud800"}',
        b'{"a":' * 100_000,
        json.dumps(CHAT | {"metadata": json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)}).encode(),
        json.dumps(CHAT | {str(i): i for i in range(5000)}).encode(),
    ],
    ids=["empty", "cut", "list", "string", "not-utf8", "nan", "surrogate", "deep-cut", "deep", "wide"],
)
def test_what_is_no_json_object_is_refused(http: httpx.Client, backend: FakeBackend, raw: bytes) -> None:
    reply = http.post("/v1/chat/completions", content=raw, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_other_content_types_are_refused(http: httpx.Client, backend: FakeBackend) -> None:
    for headers in ({"content-type": "text/plain"}, {}):
        reply = http.post("/v1/chat/completions", content=json.dumps(CHAT), headers=headers)
        assert reply.status_code == 400
    form = http.post("/v1/completions", data={"model": NAME})
    assert form.json()["error"]["type"] == "invalid_request_error"


def test_unknown_routes_and_methods_answer_in_the_same_shape(http: httpx.Client) -> None:
    assert http.get("/v2").json()["error"]["type"] == "not_found_error"
    assert http.get("/v1/completions").status_code == 405
