"""Tool calls and thoughts as the official client sees them, streamed and not, in every family's notation."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pytest
from tests.client.scripted import NAME, PARAMETERS, TOOLS, USER, create

from ingot.client.openai.json_calls import MAX_HELD_CHARS
from ingot.client.openai.tool_parsers import NOTATIONS, MarkedCalls, guess_notation

ARGUMENTS = '{"city": "}<a href=\\"x\\"> [TOOL_CALLS] \\u00e4"}'

ANSWERS = [
    (
        "hermes",
        (
            f'Well.\n<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>\n'
            '<tool_call>\n{"arguments": {}, "name": "clock"}\n</tool_call>'
        ),
        "Well.",
    ),
    (
        "llama3_json",
        f'{{"name": "weather", "parameters": {ARGUMENTS}}}; {{"name": "clock", "parameters": {{}}}}',
        None,
    ),
    ("llama3_json", f'<|python_tag|>{{"name": "weather", "parameters": {ARGUMENTS}}};{{"name": "clock"}}', None),
    (
        "mistral",
        f'[TOOL_CALLS][{{"name": "weather", "arguments": {ARGUMENTS}}}, {{"name": "clock", "arguments": {{}}}}]',
        None,
    ),
    ("mistral", f"Well. [TOOL_CALLS]weather[ARGS]{ARGUMENTS}[TOOL_CALLS]clock{{}}", "Well."),
]


def streamed(client: openai.OpenAI, **fields: Any) -> dict[str, Any]:
    """The message put together of its deltas, as clients do it."""
    message: dict[str, Any] = {"content": "", "reasoning": "", "calls": {}, "finish": None, "pieces": 0}
    for chunk in create(client, stream=True, **fields):
        (choice,) = chunk.choices
        message["content"] += choice.delta.content or ""
        message["reasoning"] += getattr(choice.delta, "reasoning_content", None) or ""
        message["finish"] = choice.finish_reason or message["finish"]
        for call in choice.delta.tool_calls or []:
            message["pieces"] += 1
            if call.id is not None:
                assert call.index not in message["calls"]
                message["calls"][call.index] = [call.id, call.function.name, ""]
            message["calls"][call.index][2] += call.function.arguments
    return message


@pytest.mark.parametrize("piece", [1, 4, 1000])
@pytest.mark.parametrize(("family", "text", "content"), ANSWERS)
def test_calls_are_read_streamed_and_whole(said: Any, family: str, text: str, content: str | None, piece: int) -> None:
    client = said(text, tool_parser=family, piece=piece)
    reply = create(client, tools=TOOLS).choices[0]
    assert reply.finish_reason == "tool_calls"
    assert reply.message.content == content
    assert [(call.function.name, json.loads(call.function.arguments)) for call in reply.message.tool_calls] == [
        ("weather", json.loads(ARGUMENTS)),
        ("clock", {}),
    ]
    found = streamed(client, tools=TOOLS)
    assert (found["content"] or None, found["finish"]) == (content, "tool_calls")
    assert [call[1] for call in found["calls"].values()] == ["weather", "clock"]
    assert [json.loads(call[2]) for call in found["calls"].values()] == [json.loads(ARGUMENTS), {}]
    assert len({call[0] for call in found["calls"].values()}) == 2
    if piece == 1:
        assert found["pieces"] > len(ARGUMENTS) / 2, "arguments come as they are written"


@pytest.mark.parametrize("family", sorted(NOTATIONS))
@pytest.mark.parametrize(
    "text", ['{"answer": 42}', "[1, 2]", "plain <tool", '{"name": 3}', "a [b] {c}", " ", "x\n", "<tool_call>\nno"]
)
def test_what_is_no_call_is_content(said: Any, family: str, text: str) -> None:
    client = said(text, tool_parser=family)
    reply = create(client, tools=TOOLS).choices[0]
    assert (reply.message.content, reply.message.tool_calls, reply.finish_reason) == (text, None, "stop")
    assert streamed(client, tools=TOOLS)["content"] == text


def test_a_call_that_is_cut_short_says_length(said: Any) -> None:
    text = '<tool_call>{"name": "weather", "arguments": {"city": "Ro'
    found = streamed(said(text, tool_parser="hermes", finish_reason="length"), tools=TOOLS)
    assert (found["finish"], found["calls"][0][2], found["content"]) == ("length", '{"city": "Ro', "")


def test_attack_16_an_endless_call_without_a_name_is_cut() -> None:
    parser = MarkedCalls(NOTATIONS["hermes"])
    parser.push('<tool_call>{"arguments": "')
    said = [piece for _ in range(2 * MAX_HELD_CHARS >> 20) for piece in parser.push("x" * (1 << 20))]
    assert sum(len(piece) for piece in said if isinstance(piece, str)) >= MAX_HELD_CHARS
    assert len(parser._buffer) < 100


def test_a_required_call_follows_a_grammar_of_the_tools(said: Any, scripted: Any) -> None:
    text = '[{"name": "weather", "arguments": {"city": "Rome"}}, {"name": "clock", "arguments": {}}]'
    client = said(text)
    reply = create(client, tools=TOOLS, tool_choice="required").choices[0]
    assert [call.function.name for call in reply.message.tool_calls] == ["weather", "clock"]
    assert reply.finish_reason == "tool_calls"
    found = streamed(client, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    assert json.loads(found["calls"][0][2]) == {"city": "Rome"}
    several, one = (json.loads(request.params.grammar.text) for request in scripted[0].seen)
    jsonschema.validate(json.loads(text), several)
    assert one["maxItems"] == 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([{"name": "weather", "arguments": {"city": 3}}], several)


def test_a_named_function_is_called_with_its_parameters(said: Any, scripted: Any) -> None:
    client = said('{"city": "Rome"}')
    choice = {"type": "function", "function": {"name": "weather"}}
    reply = create(client, tools=TOOLS, tool_choice=choice).choices[0]
    (call,) = reply.message.tool_calls
    assert (call.function.name, call.function.arguments, reply.finish_reason) == ("weather", '{"city": "Rome"}', "stop")
    assert streamed(client, tools=TOOLS, tool_choice=choice)["calls"][0][1:] == ["weather", '{"city": "Rome"}']
    assert json.loads(scripted[0].seen[0].params.grammar.text) == PARAMETERS


def test_tools_reach_the_template_and_their_answers_too(said: Any, scripted: Any) -> None:
    client = said("done", tool_parser="hermes")
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    messages: list[Any] = [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    client.chat.completions.create(model=NAME, messages=messages, tools=TOOLS)
    prompt = scripted[0].seen[0].prompt
    assert prompt.tools == TOOLS
    assert prompt.messages[1]["tool_calls"][0]["function"]["arguments"] == {"city": "Rome"}
    assert prompt.messages[2] == messages[2]
    assert not scripted[0].seen[0].params.skip_special_tokens, "the marks may be special tokens"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": TOOLS}, "tools"),
        ({"tools": TOOLS + TOOLS, "tool_choice": "required"}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "nope"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "required", "response_format": {"type": "json_object"}}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ],
)
def test_what_cannot_be_called_is_refused(said: Any, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        create(said("x"), **fields)
    assert refused.value.param == param


def test_a_notation_is_guessed_from_the_template() -> None:
    assert guess_notation("{{ '<tool_call>' }}") == "hermes"
    assert guess_notation("[TOOL_CALLS]") == "mistral"
    assert guess_notation('<|start_header_id|> ... {"name": ..., "parameters": ...}') == "llama3_json"
    assert guess_notation("{{ messages }}") is None


THOUGHTS = [
    ("qwen3", "<think>\n1 < 2 </thin\n</think>\n\nYes.", "1 < 2 </thin", "Yes."),
    ("qwen3", "Yes <think>.", "", "Yes <think>."),
    ("deepseek_r1", "so\n</think>\nYes.", "so", "Yes."),
    ("deepseek_r1", "<think>so</think>Yes.", "so", "Yes."),
    ("deepseek_r1", "never ends", "never ends", ""),
    ("mistral", "[THINK]so[/THINK]Yes.", "so", "Yes."),
]


@pytest.mark.parametrize("piece", [1, 5, 1000])
@pytest.mark.parametrize(("family", "text", "thoughts", "answer"), THOUGHTS)
def test_thoughts_come_apart_from_the_answer(
    said: Any, family: str, text: str, thoughts: str, answer: str, piece: int
) -> None:
    client = said(text, reasoning_parser=family, piece=piece)
    message = create(client).choices[0].message
    assert (message.reasoning_content or "", message.content) == (thoughts, answer)
    found = streamed(client)
    assert (found["reasoning"], found["content"]) == (thoughts, answer)


def test_calls_after_thoughts(said: Any) -> None:
    text = '<think>which?</think>\n<tool_call>{"name": "clock", "arguments": {}}</tool_call>'
    found = streamed(said(text, reasoning_parser="qwen3", tool_parser="hermes"), tools=TOOLS)
    assert (found["reasoning"], found["content"], found["calls"][0][1]) == ("which?", "", "clock")


def test_where_one_call_is_asked_for_the_others_fall_away(said: Any) -> None:
    text = '<tool_call>{"name": "clock"}</tool_call><tool_call>{"name": "weather", "arguments": {}}</tool_call>'
    client = said(text, tool_parser="hermes")
    assert len(create(client, tools=TOOLS).choices[0].message.tool_calls) == 2
    (call,) = create(client, tools=TOOLS, parallel_tool_calls=False).choices[0].message.tool_calls
    assert call.function.name == "clock"
    assert [*streamed(client, tools=TOOLS, parallel_tool_calls=False)["calls"]] == [0]


SWITCHED = [
    ({"template_switches": ("enable_thinking",)}, "none", {"enable_thinking": False}),
    ({"template_switches": ("thinking",)}, "none", {"thinking": False}),
    ({"template_switches": ("reasoning_effort",)}, "low", {"reasoning_effort": "low"}),
    ({"reasoning_parser": None}, "none", {}),
]


@pytest.mark.parametrize(("card", "effort", "told"), SWITCHED)
def test_effort_is_told_to_the_template(said: Any, scripted: Any, card: Any, effort: str, told: Any) -> None:
    create(said("x", reasoning_parser="qwen3", card=card), reasoning_effort=effort)
    assert scripted[0].seen[0].prompt.template_args == told
    create(said("x", card=card), reasoning_effort=effort, extra_body={"chat_template_kwargs": {"thinking": True}})
    assert scripted[0].seen[0].prompt.template_args == told | {"thinking": True}, "a request's own words win"


def test_an_answer_without_thoughts_is_not_taken_for_them(said: Any) -> None:
    card = {"template_switches": ("thinking",)}
    message = (
        create(said("Yes.", reasoning_parser="deepseek_r1", card=card), reasoning_effort="none").choices[0].message
    )
    assert message.content == "Yes."


@pytest.mark.parametrize("effort", ["none", "high"])
def test_an_effort_that_the_template_cannot_be_told_is_refused(said: Any, effort: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        create(said("x", reasoning_parser="qwen3"), reasoning_effort=effort)
    assert refused.value.param == "reasoning_effort"
