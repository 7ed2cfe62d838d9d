"""Every field that says what an answer must look like: the grammar that it becomes, and the one at fault in a refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ingot.client.openai.schema_chat import ChatRequest
from ingot.client.openai.schema_completions import CompletionRequest
from ingot.client.openai.structured import grammar_of
from ingot.errors import RequestError
from ingot.runtime.params import Grammar

SCHEMA = {"type": "boolean"}
JSON = Grammar(kind="json_schema", text='{"type":"boolean"}')
OBJECT = Grammar(kind="json_schema", text='{"type":"object"}')
CHOICE = Grammar(kind="choice", text='["a","b"]')
REGEX = Grammar(kind="regex", text="a+")
EBNF = Grammar(kind="ebnf", text='root ::= "a"')


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "q"}], **fields})


def named(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", **fields}}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, OBJECT),
        ({"response_format": named(schema=SCHEMA)}, JSON),
        ({"response_format": named(schema=SCHEMA, strict=True, description="d")}, JSON),
        ({"response_format": named(schema=SCHEMA, strict=False)}, JSON),
        ({"response_format": named()}, OBJECT),
        ({"response_format": named(schema=SCHEMA), "n": 3, "logprobs": True, "top_logprobs": 2}, JSON),
        ({"guided_json": SCHEMA}, JSON),
        ({"guided_json": json.dumps(SCHEMA)}, JSON),
        ({"guided_regex": "a+"}, REGEX),
        ({"guided_choice": ["a", "b"]}, CHOICE),
        ({"guided_grammar": 'root ::= "a"'}, EBNF),
        ({"structured_outputs": {"json": SCHEMA}}, JSON),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, JSON),
        ({"structured_outputs": {"json_object": True}}, OBJECT),
        ({"structured_outputs": {"regex": "a+"}}, REGEX),
        ({"structured_outputs": {"choice": ["a", "b"]}}, CHOICE),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, EBNF),
        ({"structured_outputs": {"regex": "a+"}, "response_format": {"type": "text"}}, REGEX),
    ],
)
def test_a_field_becomes_a_grammar(fields: dict[str, Any], grammar: Grammar | None, streams: bool) -> None:
    assert grammar_of(chat(**fields, stream=streams)) == grammar


def test_text_completions_take_the_same_fields() -> None:
    body = CompletionRequest.model_validate({"model": "m", "prompt": "q", "structured_outputs": {"choice": ["a", "b"]}})
    assert grammar_of(body) == CHOICE


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": named(schema={"type": "strnig"})}, "response_format"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[1]"}, "guided_json"),
        ({"guided_json": {"not": {}}}, "guided_json"),
        ({"guided_regex": "a$b"}, "guided_regex"),
        ({"guided_choice": ["a", ""]}, "guided_choice"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
        ({"structured_outputs": {"json": {"uniqueItems": True}}}, "structured_outputs.json"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"regex": "a"}, "guided_regex": "a"}, "structured_outputs.regex"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
    ],
)
def test_what_is_wrong_names_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        grammar_of(chat(**fields))
    assert refused.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        {"response_format": named(schema=SCHEMA, strickt=True)},
        {"structured_outputs": {"structural_tag": "{}"}},
        {"structured_outputs": {"regex": "a", "whitespace_pattern": " "}},
        {"structured_outputs": {"choice": []}},
        {"guided_choice": ["a"] * 1025},
        {"guided_whitespace_pattern": " "},
        {"guided_decoding_backend": "outlines"},
    ],
)
def test_what_is_not_known_is_refused_rather_than_ignored(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        chat(**fields)
