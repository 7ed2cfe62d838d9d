"""What an answer must look like, from OpenAI's and vLLM's fields to our Grammar: pure functions, no I/O."""

from __future__ import annotations

from typing import Any

import msgspec

from ingot.client.openai.schema_sampling import SamplingFields
from ingot.client.openai.schema_structured import StructuredOutputs
from ingot.errors import RequestError
from ingot.runtime.grammars.check import check_grammar
from ingot.runtime.params import Grammar

ANY_OBJECT: dict[str, Any] = {"type": "object"}


def grammar_of(body: SamplingFields) -> Grammar | None:
    """Raises RequestError for two of the fields at once, one that asks for nothing, and a grammar that is wrong in itself."""
    asked = {field: grammar for field, grammar in all_asked(body).items() if grammar is not None}
    if not asked:
        if body.structured_outputs is not None:
            raise RequestError(
                "'structured_outputs' asks for nothing.",
                mend="Give one of json, json_object, regex, choice and grammar, or leave it out.",
                param="structured_outputs",
            )
        return None
    if len(asked) > 1:
        first, second, *_ = asked
        raise RequestError(f"'{first}' and '{second}' are both given.", mend="Give one of them.", param=second)
    ((field, grammar),) = asked.items()
    checked(grammar, field)
    return grammar


def all_asked(body: SamplingFields) -> dict[str, Grammar | None]:
    new = body.structured_outputs or StructuredOutputs()
    return {
        "response_format": of_response_format(body),
        "guided_json": json_schema(body.guided_json, "guided_json"),
        "guided_regex": expression("regex", body.guided_regex),
        "guided_choice": choice(body.guided_choice),
        "guided_grammar": expression("ebnf", body.guided_grammar),
        "structured_outputs.json": json_schema(new.json_, "structured_outputs.json"),
        "structured_outputs.json_object": json_schema(ANY_OBJECT, "") if new.json_object else None,
        "structured_outputs.regex": expression("regex", new.regex),
        "structured_outputs.choice": choice(new.choice),
        "structured_outputs.grammar": expression("ebnf", new.grammar),
    }


def of_response_format(body: SamplingFields) -> Grammar | None:
    wanted = body.response_format
    if wanted is None:
        return None
    if wanted.json_schema is not None and wanted.type != "json_schema":
        raise RequestError(
            f"'response_format' is {wanted.type} and has a 'json_schema'.",
            mend='Set its type to "json_schema", or leave the schema out.',
            param="response_format",
        )
    if wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return json_schema(ANY_OBJECT, "")
    if wanted.json_schema is None:
        raise RequestError(
            "'response_format.json_schema' is missing.", mend="Give a name and a schema.", param="response_format"
        )
    schema = wanted.json_schema.schema_
    return json_schema(ANY_OBJECT if schema is None else schema, "")


def json_schema(schema: dict[str, Any] | bool | str | None, field: str) -> Grammar | None:
    """A schema in an object, or as vLLM takes it too, in a string."""
    if schema is None:
        return None
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema)
        except (msgspec.DecodeError, RecursionError) as error:
            raise RequestError(f"'{field}' is not valid JSON.", mend="Send a JSON schema.", param=field) from error
    return Grammar(kind="json_schema", text=msgspec.json.encode(schema).decode())


def choice(choices: list[str] | None) -> Grammar | None:
    return None if choices is None else Grammar(kind="choice", text=msgspec.json.encode(choices).decode())


def expression(kind: Any, text: str | None) -> Grammar | None:
    return None if text is None else Grammar(kind=kind, text=text)


def checked(grammar: Grammar, field: str) -> None:
    try:
        check_grammar(grammar)
    except RequestError as error:
        raise RequestError(error.message, mend=error.mend, param=field) from error
