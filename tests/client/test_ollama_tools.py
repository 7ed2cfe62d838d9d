"""Tools, thoughts and formats of Ollama's routes as its own client sees them, streamed and not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import ollama
import pytest
from tests.client.scripted import NAME, ScriptedBackend
from tests.client.served import served

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "clock"}},
]
USER = [{"role": "user", "content": "hi"}]
CALLS = (
    '<think>which?</think>Well.\n<tool_call>\n{"name": "weather", "arguments": {"city": "R\\u00f6m"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
)
FAMILY = {"tool_parser": "hermes", "reasoning_parser": "qwen3"}


@pytest.fixture(scope="module")
def scripted() -> Iterator[tuple[ScriptedBackend, ollama.Client]]:
    backend = ScriptedBackend()
    with served(backend) as url:
        client = ollama.Client(host=url, verify=False)
        yield backend, client
        client._client.close()


@pytest.fixture
def backend(scripted: tuple[ScriptedBackend, ollama.Client]) -> ScriptedBackend:
    return scripted[0]


@pytest.fixture
def llama(scripted: tuple[ScriptedBackend, ollama.Client]) -> ollama.Client:
    return scripted[1]


def called(messages: list[Any]) -> list[tuple[str, Any]]:
    calls = [call for message in messages for call in message.tool_calls or []]
    return [(call.function.name, call.function.arguments) for call in calls]


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_thoughts_and_calls(backend: ScriptedBackend, llama: ollama.Client, piece: int) -> None:
    backend.says(CALLS, piece=piece, **FAMILY)
    whole = llama.chat(NAME, USER, tools=TOOLS)
    streamed = [*llama.chat(NAME, USER, tools=TOOLS, stream=True)]
    for messages in ([whole.message], [one.message for one in streamed]):
        assert "".join(message.thinking or "" for message in messages) == "which?"
        assert "".join(message.content or "" for message in messages) == "Well."
        assert called(messages) == [("weather", {"city": "Röm"}), ("clock", {})]
    assert (whole.done_reason, streamed[-1].done_reason) == ("stop", "stop")


def test_tools_and_their_answers_reach_the_template(backend: ScriptedBackend, llama: ollama.Client) -> None:
    backend.says(CALLS, **FAMILY)
    said = llama.chat(NAME, USER, tools=TOOLS).message
    llama.chat(NAME, [*USER, said, {"role": "tool", "content": "sunny", "tool_name": "weather"}], tools=TOOLS)
    prompt = backend.seen[-1].prompt
    assert prompt.tools == TOOLS
    _, assistant, tool = prompt.messages or []
    assert (assistant["content"], assistant["reasoning_content"]) == ("Well.", "which?")
    assert assistant["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Röm"}}
    assert tool == {"role": "tool", "content": "sunny", "name": "weather"}


def test_a_call_that_is_cut_short_is_what_there_is(backend: ScriptedBackend, llama: ollama.Client) -> None:
    text = '<tool_call>{"name": "weather", "arguments": {"city": "Ro'
    backend.says(text, tool_parser="hermes", finish_reason="length")
    whole = llama.chat(NAME, USER, tools=TOOLS)
    assert (called([whole.message]), whole.done_reason) == ([("weather", {"city": "Ro"})], "length")
    streamed = [one.message for one in llama.chat(NAME, USER, tools=TOOLS, stream=True)]
    assert called(streamed) == [("weather", {"city": "Ro"})]


def test_thoughts_are_switched(backend: ScriptedBackend, llama: ollama.Client) -> None:
    backend.says("<think>a</think>b", reasoning_parser="qwen3", card={"template_switches": ("enable_thinking",)})
    for think in (True, False):
        reply = llama.generate(NAME, "hi", think=think)
        assert (reply.thinking, reply.response) == ("a", "b")
        assert backend.seen[-1].prompt.template_args == {"enable_thinking": think}
    backend.says("b", card={"template_switches": ("reasoning_effort",)})
    llama.chat(NAME, USER, think="high")
    assert backend.seen[-1].prompt.template_args == {"reasoning_effort": "high"}


def test_a_format_is_a_grammar(backend: ScriptedBackend, llama: ollama.Client) -> None:
    backend.says("{}")
    for asked, schema in (("json", {"type": "object"}), (SCHEMA, SCHEMA)):
        llama.chat(NAME, USER, format=asked)  # type: ignore[arg-type]
        llama.generate(NAME, "hi", raw=True, format=asked)  # type: ignore[arg-type]
        for request in backend.seen[-2:]:
            assert request.params.grammar is not None
            assert json.loads(request.params.grammar.text) == schema
        assert backend.seen[-1].prompt.text == "hi"


def test_what_the_model_can_is_shown(backend: ScriptedBackend, llama: ollama.Client) -> None:
    backend.says("x", **FAMILY)
    assert llama.show(NAME).capabilities == ["completion", "tools", "thinking"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"tools": TOOLS}, "how its model writes tool calls"),
        ({"think": True}, "--reasoning-parser"),
        ({"think": "high"}, "effort"),
        ({"format": {"not": {}}}, "not"),
        ({"format": "xml"}, "format"),
        (
            {"messages": [*USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]},
            "last",
        ),
    ],
)
def test_what_cannot_be_had_is_refused(
    backend: ScriptedBackend, llama: ollama.Client, asked: dict[str, Any], said: str
) -> None:
    backend.says("x")
    reply = llama._client.post("/api/chat", json={"model": NAME, "messages": USER} | asked)
    assert reply.status_code == 400
    assert said in reply.json()["error"]
    assert not backend.seen


def test_a_raw_prompt_has_no_thoughts_to_switch(backend: ScriptedBackend, llama: ollama.Client) -> None:
    backend.says("x", reasoning_parser="qwen3")
    with pytest.raises(ollama.ResponseError, match="'think' is given with 'raw'"):
        llama.generate(NAME, "hi", raw=True, think=True)
