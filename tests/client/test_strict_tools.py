"""What strict tools ask of the backend, and which are refused: the schemas of calls that a model makes by itself."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from tests.client.scripted import PARAMETERS, TOOLS, create

from ingot.client.openai.tool_parsers import NOTATIONS

STRICT: list[Any] = [
    {"type": "function", "function": {"name": "weather", "strict": True, "parameters": PARAMETERS}},
    TOOLS[1],
]


@pytest.mark.parametrize("family", sorted(NOTATIONS))
def test_strict_tools_hold_an_answers_calls_to_their_schemas(said: Any, scripted: Any, family: str) -> None:
    client = said("Hi", tool_parser=family)
    create(client, tools=STRICT)
    create(client, tools=STRICT, tool_choice="auto", parallel_tool_calls=False)
    create(client, tools=TOOLS)
    create(client, tools=STRICT, tool_choice="none")
    create(client, tools=STRICT, response_format={"type": "json_object"})
    several, one, free, none, formatted = (request.params.grammar for request in scripted[0].seen)
    assert several.kind == one.kind == "structural_tag"
    assert several != one
    assert '"maxItems":1' in one.text
    assert (free, none, formatted.kind) == (None, None, "json_schema")


def test_strict_tools_leave_thoughts_alone(said: Any, scripted: Any) -> None:
    card = {"template_switches": ("enable_thinking",)}
    client = said("Hi", tool_parser="hermes", reasoning_parser="deepseek_r1", card=card)
    create(client, tools=STRICT)
    create(client, tools=STRICT, reasoning_effort="none")
    thinking, straight = (request.params.grammar.text for request in scripted[0].seen)
    assert ("</think>" in thinking, "</think>" in straight) == (True, False)


@pytest.mark.parametrize(
    ("schema", "said_of_it"),
    [
        ({"type": "object", "properties": {"a": {"not": {}}}}, "a/not"),
        ({"type": "objekt"}, "objekt"),
        ({"x": "y" * 300_000}, "characters"),
    ],
)
def test_a_strict_schema_that_cannot_be_enforced_is_refused(said: Any, schema: Any, said_of_it: str) -> None:
    tool: Any = {"type": "function", "function": {"name": "f", "strict": True, "parameters": schema}}
    with pytest.raises(openai.BadRequestError, match=said_of_it) as refused:
        create(said("x", tool_parser="hermes"), tools=[tool])
    assert refused.value.param == "tools"
    tool["function"]["strict"] = False
    assert create(said("x", tool_parser="hermes"), tools=[tool]).choices[0].message.content == "x"


def test_control_characters_in_arguments_come_escaped(said: Any) -> None:
    text = '<tool_call>{"arguments": {"city": "a\n\tb\\n"},\n"name": "weather"}</tool_call>'
    (call,) = create(said(text, tool_parser="hermes"), tools=TOOLS).choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "a\n\tb\n"}
