"""Tool use and thoughts in /v1/messages as Anthropic's own client sees them, streamed and not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from tests.client.scripted import NAME, ScriptedBackend
from tests.client.served import served

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [
    {"name": "weather", "description": "The weather", "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}},
    {"name": "clock", "input_schema": {"type": "object"}, "type": "custom"},
]
USER: list[Any] = [{"role": "user", "content": "hi"}]
CALLS = (
    'Well.\n<tool_call>\n{"name": "weather", "arguments": {"city": "R\\u00f6m"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
)
THOUGHT = "<think>which?</think>\n"


@pytest.fixture(scope="module")
def scripted() -> Iterator[tuple[ScriptedBackend, anthropic.Anthropic]]:
    backend = ScriptedBackend()
    with served(backend) as url, anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield backend, client


@pytest.fixture
def backend(scripted: tuple[ScriptedBackend, anthropic.Anthropic]) -> ScriptedBackend:
    return scripted[0]


@pytest.fixture
def create(scripted: tuple[ScriptedBackend, anthropic.Anthropic]) -> Any:
    def create(*, streamed: bool = False, messages: Any = USER, **fields: Any) -> Any:
        """The whole message, put together by the client where it was streamed."""
        asked = {"model": NAME, "max_tokens": 50, "messages": messages} | fields
        if not streamed:
            return scripted[1].messages.create(**asked)
        with scripted[1].messages.stream(**asked) as stream:
            return stream.get_final_message()

    return create


def blocks(message: Any) -> list[tuple[str, Any]]:
    said = {"text": "text", "thinking": "thinking", "tool_use": "input"}
    return [(block.type, getattr(block, said[block.type])) for block in message.content]


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize("streamed", [True, False])
def test_thoughts_text_and_calls_are_blocks(backend: ScriptedBackend, create: Any, piece: int, streamed: bool) -> None:
    backend.says(THOUGHT + CALLS, piece=piece, tool_parser="hermes", reasoning_parser="qwen3")
    message = create(tools=TOOLS, streamed=streamed)
    assert blocks(message) == [
        ("thinking", "which?"),
        ("text", "Well."),
        ("tool_use", {"city": "Röm"}),
        ("tool_use", {}),
    ]
    assert message.stop_reason == "tool_use"
    assert [block.name for block in message.content[2:]] == ["weather", "clock"]
    first, second = (block.id for block in message.content[2:])
    assert first.startswith("toolu_")
    assert first != second


def test_stream_events_are_anthropics(backend: ScriptedBackend, scripted: Any) -> None:
    backend.says(CALLS, piece=1, tool_parser="hermes")
    events = [*scripted[1].messages.create(model=NAME, max_tokens=50, messages=USER, tools=TOOLS, stream=True)]
    starts = [event for event in events if event.type == "content_block_start"]
    assert [(event.index, event.content_block.type) for event in starts] == [
        (0, "text"),
        (1, "tool_use"),
        (2, "tool_use"),
    ]
    assert starts[1].content_block.input == {}
    parts = [event.delta.partial_json for event in events if event.type == "content_block_delta" and event.index == 1]
    assert json.loads("".join(parts)) == {"city": "Röm"}
    assert len(parts) > 5, "inputs come as they are written"
    assert [event.index for event in events if event.type == "content_block_stop"] == [0, 1, 2]


def test_tools_and_results_reach_the_template(backend: ScriptedBackend, create: Any) -> None:
    backend.says("It is sunny.", tool_parser="hermes")
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}}
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "sunny"}]},
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no clock", "is_error": True},
        {"type": "text", "text": "And now?"},
    ]
    thought = {"type": "thinking", "thinking": "which?", "signature": ""}
    turns = [
        *USER,
        {"role": "assistant", "content": [thought, {"type": "text", "text": "Let me see."}, use]},
        {"role": "user", "content": results},
    ]
    assert create(messages=turns, tools=TOOLS).stop_reason == "end_turn"
    prompt = backend.seen[-1].prompt
    function = {"name": "weather", "description": "The weather", "parameters": SCHEMA}
    assert (prompt.tools or [])[0] == {"type": "function", "function": function}
    said, sunny, broken, user = (prompt.messages or [])[1:]
    assert (said["content"], said["reasoning_content"]) == ("Let me see.", "which?")
    assert said["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Rome"}}
    assert sunny == {"role": "tool", "content": "sunny", "tool_call_id": "toolu_1"}
    assert broken["content"] == "Error: no clock"
    assert user == {"role": "user", "content": "And now?"}


@pytest.mark.parametrize("streamed", [True, False])
def test_a_call_can_be_forced(backend: ScriptedBackend, create: Any, streamed: bool) -> None:
    backend.says('{"city": "Rome"}')
    message = create(tools=TOOLS, tool_choice={"type": "tool", "name": "weather"}, streamed=streamed)
    assert (blocks(message), message.stop_reason) == ([("tool_use", {"city": "Rome"})], "tool_use")
    grammar = backend.seen[-1].params.grammar
    assert grammar is not None
    assert json.loads(grammar.text) == SCHEMA
    backend.says('[{"name": "clock", "arguments": {}}]')
    only_one = {"type": "any", "disable_parallel_tool_use": True}
    assert blocks(create(tools=TOOLS, tool_choice=only_one, streamed=streamed)) == [("tool_use", {})]
    grammar = backend.seen[-1].params.grammar
    assert grammar is not None
    assert json.loads(grammar.text)["maxItems"] == 1


def test_where_one_call_is_asked_for_the_others_fall_away(backend: ScriptedBackend, create: Any) -> None:
    backend.says(CALLS, tool_parser="hermes")
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert len(blocks(create(tools=TOOLS, tool_choice=choice))) == 2
    assert len(blocks(create(tools=TOOLS, tool_choice=choice, streamed=True))) == 2


def test_none_calls_nothing(backend: ScriptedBackend, create: Any) -> None:
    backend.says(CALLS, tool_parser="hermes")
    message = create(tools=TOOLS, tool_choice={"type": "none"})
    assert (blocks(message), message.stop_reason) == ([("text", CALLS)], "end_turn")


def test_an_input_that_is_cut_short_is_what_there_is(backend: ScriptedBackend, create: Any) -> None:
    text = '<tool_call>{"name": "weather", "arguments": {"city": "Ro'
    backend.says(text, tool_parser="hermes", finish_reason="length")
    message = create(tools=TOOLS)
    assert (blocks(message), message.stop_reason) == ([("tool_use", {"city": "Ro"})], "max_tokens")
    message = create(tools=TOOLS, streamed=True)  # put together by the client, which drops the half string
    assert (blocks(message), message.stop_reason) == ([("tool_use", {})], "max_tokens")


def test_thoughts_are_switched_in_the_templates_own_words(backend: ScriptedBackend, create: Any) -> None:
    for asked, told in (("disabled", False), ("adaptive", True)):
        backend.says("x", reasoning_parser="qwen3", card={"template_switches": ("enable_thinking",)})
        create(extra_body={"thinking": {"type": asked}})
        assert backend.seen[-1].prompt.template_args == {"enable_thinking": told}
    backend.says("x", card={"template_switches": ("reasoning_effort",)})
    create(extra_body={"output_config": {"effort": "low"}})
    assert backend.seen[-1].prompt.template_args == {"reasoning_effort": "low"}


def test_a_format_is_a_grammar(backend: ScriptedBackend, create: Any) -> None:
    backend.says('{"city": "Rome"}')
    create(extra_body={"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}})
    grammar = backend.seen[-1].params.grammar
    assert grammar is not None
    assert (grammar.kind, json.loads(grammar.text)) == ("json_schema", SCHEMA)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tools": TOOLS}, "how its model writes tool calls"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "nope"}}, "No tool is called"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool"}}, "has a 'name'"),
        ({"tool_choice": {"type": "any"}}, "without 'tools'"),
        ({"tools": TOOLS + TOOLS, "tool_choice": {"type": "any"}}, "same name"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools\\[0\\]"),
        ({"tools": [TOOLS[0] | {"input_schema": {"not": {}}}], "tool_choice": {"type": "any"}}, "not"),
        ({"tools": [TOOLS[0] | {"input_examples": [{}]}]}, "input_examples"),
        ({"thinking": {"type": "adaptive"}}, "--reasoning-parser"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, "budget_tokens"),
        ({"output_config": {"effort": "low"}}, "effort"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages\\[0\\].content"),
        (
            {"messages": [*USER, {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}]},
            "messages",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}]}, "thinks"),
        (
            {
                "messages": [
                    *USER,
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]},
                ]
            },
            "last turn calls",
        ),
    ],
)
def test_what_cannot_be_had_is_refused(
    backend: ScriptedBackend, create: Any, fields: dict[str, Any], said: str
) -> None:
    backend.says("x")
    with pytest.raises(anthropic.BadRequestError, match=said) as refused:
        create(messages=fields.pop("messages", USER), extra_body=fields)
    body = refused.value.body
    assert isinstance(body, dict)
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert not backend.seen


def test_tools_are_counted(backend: ScriptedBackend, scripted: Any) -> None:
    backend.says("x", tool_parser="hermes")
    asked = {"model": NAME, "messages": USER, "tools": TOOLS}
    assert scripted[1].messages.count_tokens(**asked).input_tokens == 2


def test_strict_tools_are_enforced(backend: ScriptedBackend, create: Any) -> None:
    backend.says("Hi", tool_parser="hermes")
    create(tools=TOOLS)
    create(tools=[{**TOOLS[0], "strict": True}, TOOLS[1]])
    create(tools=[{**TOOLS[0], "strict": True}], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    free, strict, one = (request.params.grammar for request in backend.seen)
    assert free is None
    assert strict.kind == one.kind == "structural_tag"
