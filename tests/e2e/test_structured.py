"""The bundled model behind a live server, made to answer in a format: what the official client gets fits it every time."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
from tests.client.served import served

from ingot.client.embedded import EmbeddedBackend, EmbeddedOptions

QUESTION: list[Any] = [{"role": "user", "content": "What is 17 + 25?"}]
ORDER = {
    "type": "object",
    "properties": {
        "item": {"type": "string", "minLength": 1, "maxLength": 12},
        "count": {"type": "integer", "minimum": 1, "maximum": 99},
        "size": {"enum": ["small", "large"]},
        "gift": {"type": "boolean"},
    },
    "required": ["item", "count", "size", "gift"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "order", "strict": True, "schema": ORDER}}
HOSTILE = {
    "anyOf": [{"type": "object", "properties": {f"k{i}-{j}": {"type": "string"} for j in range(6)}} for i in range(250)]
}


@pytest.fixture(scope="module")
def url(engine: Path) -> Iterator[str]:
    backend = EmbeddedBackend(engine, EmbeddedOptions(served_model_name="tiny", tool_parser="hermes"))
    with served(backend) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def create(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(model="tiny", messages=QUESTION, **fields)


def test_two_hundred_of_two_hundred_answers_fit_their_schema(client: openai.OpenAI) -> None:
    for seed in (1, 2):
        reply = create(client, response_format=FORMAT, temperature=1, n=100, seed=seed, logprobs=True, top_logprobs=1)
        assert len(reply.choices) == 100
        for choice in reply.choices:
            assert choice.finish_reason == "stop"
            jsonschema.validate(json.loads(choice.message.content), ORDER)
            assert len(choice.logprobs.content) > 10
        assert len({choice.message.content for choice in reply.choices}) > 50


def test_vllms_spellings_old_and_new(client: openai.OpenAI) -> None:
    for extra in (
        {"guided_choice": ["yes", "no"]},
        {"structured_outputs": {"choice": ["yes", "no"]}},
        {"guided_regex": "yes|no"},
        {"structured_outputs": {"regex": "(yes|no)"}},
        {"guided_grammar": 'root ::= "yes" | "no"'},
        {"structured_outputs": {"grammar": 'root ::= "yes" | "no"'}},
        {"guided_json": {"enum": ["yes", "no"]}},
        {"structured_outputs": {"json": json.dumps({"const": "yes"})}},
    ):
        content = create(client, extra_body=extra).choices[0].message.content
        assert content.strip('"') in ("yes", "no"), extra
    reply = client.completions.create(model="tiny", prompt="a", extra_body={"guided_regex": "[0-9]{4}"})
    assert re.fullmatch("[0-9]{4}", reply.choices[0].text)


def test_json_objects_stream(client: openai.OpenAI) -> None:
    chunks = create(client, response_format={"type": "json_object"}, stream=True, seed=3, max_tokens=200)
    text, reason = "", None
    for chunk in chunks:
        text += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason or reason
    assert text.startswith("{")
    assert reason == "length" or isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objekt"}}}},
            "response_format",
            "#/type",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
        ({"extra_body": {"guided_json": "{"}}, "guided_json", "JSON"),
        ({"extra_body": {"guided_json": {}, "guided_regex": "a"}}, "guided_regex", "both"),
        ({"extra_body": {"guided_regex": "(a"}}, None, "parenthesis"),
        ({"extra_body": {"guided_grammar": "root ::= x"}}, None, "x"),
    ],
)
def test_a_wrong_format_is_a_400_that_says_where(
    client: openai.OpenAI, fields: dict[str, Any], param: str | None, said: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=re.escape(said)) as refused:
        create(client, **fields)
    assert refused.value.param == param


def test_a_call_that_is_required_or_named_is_well_formed(client: openai.OpenAI) -> None:
    tools: list[Any] = [
        {"type": "function", "function": {"name": "order", "parameters": ORDER}},
        {"type": "function", "function": {"name": "wait"}},
    ]
    reply = create(client, tools=tools, tool_choice="required", parallel_tool_calls=False, n=20, seed=1)
    names = set()
    for choice in reply.choices:
        (call,) = choice.message.tool_calls
        names.add(call.function.name)
        jsonschema.validate(json.loads(call.function.arguments), ORDER if call.function.name == "order" else {})
        assert choice.finish_reason == "tool_calls"
    assert names <= {"order", "wait"}
    named = create(client, tools=tools, tool_choice={"type": "function", "function": {"name": "order"}}, n=5, seed=1)
    for choice in named.choices:
        jsonschema.validate(json.loads(choice.message.tool_calls[0].function.arguments), ORDER)
    assert "42" in create(client, tools=tools, temperature=0).choices[0].message.content


async def test_a_hostile_schema_is_refused_while_others_stream(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        fields: Any = {"model": "tiny", "messages": QUESTION}
        hostile = asyncio.create_task(client.chat.completions.create(**fields, extra_body={"guided_json": HOSTILE}))
        answered = 0
        while not hostile.done():
            await client.chat.completions.create(**fields, max_tokens=8)
            answered += 1
        with pytest.raises(openai.BadRequestError, match="too much"):
            await hostile
    assert answered > 2  # who waited for the compiler, which had all of its budget, would be the first and the last


def test_strict_tools_hold_calls_that_the_model_makes_by_itself(engine: Path) -> None:
    """Asked for JSON the model writes an object, which Llama's notation takes for a call: of a function that nobody has."""
    backend = EmbeddedBackend(engine, EmbeddedOptions(served_model_name="tiny", tool_parser="llama3_json"))
    with served(backend) as url, openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        asked: Any = [{"role": "user", "content": "Give me JSON for name Ada and age 36."}]
        tool: Any = {"type": "function", "function": {"name": "order", "parameters": ORDER, "strict": False}}

        def calls(messages: list[Any], n: int) -> list[Any]:
            reply = client.chat.completions.create(
                model="tiny", messages=messages, tools=[tool], temperature=1, n=n, seed=1
            )
            return [choice.message for choice in reply.choices]

        assert "order" not in {call.function.name for one in calls(asked, 5) for call in one.tool_calls or []}
        plain = [message.content for message in calls(QUESTION, 5)]
        tool["function"]["strict"] = True
        found = [call for one in calls(asked, 50) for call in one.tool_calls]
        assert len(found) >= 50
        for call in found:
            assert call.function.name == "order"
            jsonschema.validate(json.loads(call.function.arguments), ORDER)
        assert [message.content for message in calls(QUESTION, 5)] == plain, "text without calls is as free as before"
