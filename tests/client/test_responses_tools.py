"""Function calls, reasoning items and formats of /v1/responses as the official client sees them, streamed and not."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from tests.client.scripted import NAME, ScriptedBackend

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [
    {"type": "function", "name": "weather", "description": "The weather", "parameters": SCHEMA, "strict": None},
    {"type": "function", "name": "clock", "parameters": None, "strict": None},
]
CALLS = (
    '<think>which?</think>Well.\n<tool_call>\n{"name": "weather", "arguments": {"city": "R\\u00f6m"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
)
FAMILY = {"tool_parser": "hermes", "reasoning_parser": "qwen3"}


@pytest.fixture
def backend(scripted: tuple[ScriptedBackend, openai.OpenAI]) -> ScriptedBackend:
    return scripted[0]


@pytest.fixture
def create(scripted: tuple[ScriptedBackend, openai.OpenAI]) -> Any:
    def create(*, streamed: bool = False, asked: Any = "hi", **fields: Any) -> Any:
        """The whole response, put together by the client where it was streamed."""
        if not streamed:
            return scripted[1].responses.create(model=NAME, input=asked, **fields)
        with scripted[1].responses.stream(model=NAME, input=asked, **fields) as stream:
            return stream.until_done().get_final_response()

    return create


def said(response: Any) -> list[tuple[Any, ...]]:
    of = {
        "reasoning": lambda item: item.content[0].text,
        "message": lambda item: item.content[0].text,
        "function_call": lambda item: (item.name, json.loads(item.arguments)),
    }
    return [(item.type, of[item.type](item), item.status) for item in response.output]


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize("streamed", [True, False])
def test_thoughts_text_and_calls_are_items(backend: ScriptedBackend, create: Any, piece: int, streamed: bool) -> None:
    backend.says(CALLS, piece=piece, **FAMILY)
    response = create(tools=TOOLS, streamed=streamed)
    assert said(response) == [
        ("reasoning", "which?", "completed"),
        ("message", "Well.", "completed"),
        ("function_call", ("weather", {"city": "Röm"}), "completed"),
        ("function_call", ("clock", {}), "completed"),
    ]
    assert response.status == "completed"
    assert [tool.name for tool in response.tools] == ["weather", "clock"]
    assert len({item.id for item in response.output} | {item.call_id for item in response.output[2:]}) == 6


def test_stream_events_are_openais(backend: ScriptedBackend, scripted: Any) -> None:
    backend.says(CALLS, piece=1, **FAMILY)
    events = [*scripted[1].responses.create(model=NAME, input="hi", tools=TOOLS, stream=True)]
    assert [event.sequence_number for event in events] == [*range(len(events))]
    kinds = [event.type.removeprefix("response.") for event in events if not event.type.endswith(".delta")]
    part = ["content_part.done", "output_item.done"]
    call = ["output_item.added", "function_call_arguments.done", "output_item.done"]
    assert kinds == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.done", *part),
        *("output_item.added", "content_part.added", "output_text.done", *part),
        *(call + call),
        "completed",
    ]
    deltas = [event for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(event.delta for event in deltas if event.output_index == 2) == '{"city": "R\\u00f6m"}'
    assert len(deltas) > 5, "arguments come as they are written"
    thoughts = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert "".join(thoughts) == "which?"


def test_a_conversation_with_calls_goes_on_from_its_last_answer(backend: ScriptedBackend, create: Any) -> None:
    backend.says(CALLS, **FAMILY)
    first = create(tools=TOOLS)
    outputs = [
        {"type": "function_call_output", "call_id": first.output[2].call_id, "output": "sunny"},
        {
            "type": "function_call_output",
            "call_id": first.output[3].call_id,
            "output": [{"type": "input_text", "text": "noon"}],
        },
    ]
    create(asked=outputs, tools=TOOLS, previous_response_id=first.id)
    stored = backend.seen[-1].prompt.messages
    items = [item.model_dump(exclude_none=True) for item in first.output]
    create(asked=[{"role": "user", "content": "hi"}, *items, *outputs], tools=TOOLS)
    assert backend.seen[-1].prompt.messages == stored
    assert stored is not None
    _, assistant, weather, clock = stored
    assert (assistant["content"], assistant["reasoning_content"]) == ("Well.", "which?")
    assert [call["function"] for call in assistant["tool_calls"]] == [
        {"name": "weather", "arguments": {"city": "Röm"}},
        {"name": "clock", "arguments": {}},
    ]
    assert (weather["role"], weather["content"], clock["content"]) == ("tool", "sunny", "noon")
    assert weather["tool_call_id"] == assistant["tool_calls"][0]["id"]


@pytest.mark.parametrize("streamed", [True, False])
def test_a_call_can_be_forced(backend: ScriptedBackend, create: Any, streamed: bool) -> None:
    backend.says('{"city": "Rome"}')
    response = create(tools=TOOLS, tool_choice={"type": "function", "name": "weather"}, streamed=streamed)
    assert said(response) == [("function_call", ("weather", {"city": "Rome"}), "completed")]
    assert response.tool_choice.name == "weather"
    grammar = backend.seen[-1].params.grammar
    assert grammar is not None
    assert json.loads(grammar.text) == SCHEMA


def test_a_call_that_is_cut_short_is_incomplete(backend: ScriptedBackend, create: Any, scripted: Any) -> None:
    text = '<tool_call>{"name": "weather", "arguments": {"city": "Ro'
    backend.says(text, tool_parser="hermes", finish_reason="length")
    *_, last = scripted[1].responses.create(model=NAME, input="hi", tools=TOOLS, stream=True)
    assert last.type == "response.incomplete"
    for response in (last.response, create(tools=TOOLS)):
        (item,) = response.output
        assert (item.arguments, item.status, response.status) == ('{"city": "Ro', "incomplete", "incomplete")
        create(asked="Go on.", previous_response_id=response.id)
        assert (backend.seen[-1].prompt.messages or [])[1] == {"role": "assistant", "content": ""}


def test_one_call_and_formats_and_effort_reach_the_backend(backend: ScriptedBackend, create: Any) -> None:
    backend.says(CALLS, **FAMILY, card={"template_switches": ("enable_thinking", "reasoning_effort")})
    response = create(tools=TOOLS, parallel_tool_calls=False, reasoning={"effort": "none"})
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    assert not response.parallel_tool_calls
    assert backend.seen[-1].prompt.template_args == {"enable_thinking": False}
    create(reasoning={"effort": "high", "summary": "auto"})
    assert backend.seen[-1].prompt.template_args == {"reasoning_effort": "high"}
    response = create(text={"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}})
    grammar = backend.seen[-1].params.grammar
    assert grammar is not None
    assert json.loads(grammar.text) == SCHEMA
    assert response.text.format.schema_ == SCHEMA


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": TOOLS}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "nope"}}, "tool_choice"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning"),
        ({"text": {"verbosity": "low"}}, "text"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]}, "input"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}]}, "messages[0]"),
        ({"input": [{"type": "computer_call"}]}, "input"),
    ],
)
def test_what_cannot_be_had_is_refused(
    backend: ScriptedBackend, create: Any, fields: dict[str, Any], param: str
) -> None:
    backend.says("x")
    with pytest.raises(openai.BadRequestError) as refused:
        create(extra_body=fields)
    assert (refused.value.param or "").startswith(param)
    assert not backend.seen


def test_strict_functions_are_enforced(backend: ScriptedBackend, create: Any) -> None:
    backend.says("Hi", **FAMILY)
    create(tools=TOOLS)
    create(tools=[{**TOOLS[0], "strict": True}, TOOLS[1]])
    free, strict = (request.params.grammar for request in backend.seen)
    assert free is None
    assert strict.kind == "structural_tag"
