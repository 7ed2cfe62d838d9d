"""Feature by feature: what a schema or an expression may say, and that the texts obey; what it may not, and that it is told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from tests.runtime.random_program import RandomProgram
from tests.runtime.tokens import EOS, byte_tokenizer

from ingot.errors import RequestError
from ingot.manifest import Limits
from ingot.runtime.executor import Executor
from ingot.runtime.grammars.check import check_grammar
from ingot.runtime.grammars.compiler import GrammarCompiler
from ingot.runtime.grammars.expressions import misread
from ingot.runtime.llm import LLM
from ingot.runtime.params import Grammar, SamplingParams

TOKENIZER = byte_tokenizer()
LIMITS = Limits(max_model_len=512, max_num_seqs=16, max_num_batched_tokens=64, page_size=8)
ASCII = {token: -100.0 for token in range(EOS) if TOKENIZER.token_bytes(token) >= b"\x80"}
NULL = {"type": "null"}
HONOURED: list[dict[str, Any]] = [
    {"const": {"a": [1, "x"]}},
    {"enum": [1, "a", None, 1.5, True, {"k": 1}]},
    {"type": ["string", "null"], "enum": ["a", None]},
    {"type": "integer", "const": 4.0},
    {"type": ["integer", "null"], "minimum": 3, "maximum": 9},
    {"type": "number", "minimum": -1.5, "maximum": 2.25},
    {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 5},
    {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
    {"type": "string", "minLength": 2, "maxLength": 3},
    {"type": "string", "pattern": "^[a-z]{3}$"},
    {"type": "string", "pattern": "^(a|b)+?$"},
    {"type": "string", "format": "uuid"},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "prefixItems": [{"type": "boolean"}], "items": NULL, "minItems": 1, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "boolean"}], "unevaluatedItems": False},
    {"type": "object", "properties": {"a": NULL, "b": NULL}, "required": ["b"], "additionalProperties": False},
    {"type": "object", "properties": {"a": NULL, "b": NULL, "c": NULL}, "minProperties": 2, "maxProperties": 2},
    {"type": "object", "patternProperties": {"^[a-c]{1,2}$": NULL}, "maxProperties": 2, "additionalProperties": False},
    {"type": "object", "propertyNames": {"type": "string", "pattern": "^[a-c]{2}$"}, "maxProperties": 2},
    {"type": "object", "properties": {'a"\\ü': NULL}, "required": ['a"\\ü'], "additionalProperties": False},
    {"allOf": [{"type": "boolean"}]},
    {"anyOf": [NULL, {"$ref": "#/$defs/yes"}], "$defs": {"yes": {"const": "yes"}}},
    {"type": "array", "items": {"$ref": "#"}, "maxItems": 1},
    {"title": "t", "description": "d", "default": 1, "examples": [1], "type": "boolean", "x-own": 1},
]
REFUSED: list[tuple[Any, str]] = [
    *(({key: {}}, f"#/{key} cannot") for key in ("not", "if", "contains")),
    ({"type": "array", "uniqueItems": True}, "#/uniqueItems"),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, "#/dependentRequired"),
    ({"allOf": [NULL, NULL]}, "#/allOf"),
    ({"enum": ["a"], "minLength": 1}, "#/minLength"),
    ({"$ref": "#/$defs/a", "type": "string", "pattern": "a", "$defs": {"a": NULL}}, "#/pattern"),
    ({"type": "string", "enum": ["a", 1]}, "#/enum"),
    ({"type": "integer", "const": 1.5}, "#/const"),
    ({"type": "integer", "const": True}, "#/const"),
    ({"type": "number", "multipleOf": 2}, "#/multipleOf"),
    ({"type": "integer", "multipleOf": 1.5}, "#/multipleOf"),
    ({"type": "string", "format": "date", "maxLength": 5}, "#/maxLength"),
    ({"type": "string", "format": "date", "pattern": "a"}, "#/pattern"),
    ({"type": "string", "pattern": "a", "maxLength": 5}, "#/pattern"),
    ({"type": "string", "pattern": "^(?!a)b$"}, "#/pattern looks ahead"),
    ({"type": "string", "pattern": "a$b"}, "#/pattern has an anchor"),
    ({"type": "string", "pattern": '"'}, "#/pattern has a quote"),
    ({"maxLength": 5}, "#/maxLength"),
    ({"type": "object", "required": ["a"]}, "#/required"),
    ({"type": "array", "items": [NULL]}, "#/items is no schema"),
    ({"items": {"$ref": "other.json"}}, "#/items/$ref"),
    (3, "# is no schema"),
]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    program = RandomProgram(
        num_pages=1024, page_size=8, max_num_seqs=16, vocab_size=TOKENIZER.vocab_size, eos=EOS, steps_ahead=0
    )
    compiler = GrammarCompiler(TOKENIZER.vocabulary())
    llm = LLM.of(program, TOKENIZER, LIMITS, "random")
    llm._executor = Executor(program, LIMITS, [EOS], grammars=compiler)
    yield llm
    compiler.close()


def texts(llm: LLM, kind: Any, text: str) -> list[str]:
    """Those of sixteen that came to their end."""
    params = SamplingParams(grammar=Grammar(kind=kind, text=text), max_tokens=200, logit_bias=ASCII)
    ended = [one.text for one in llm.generate(["write"] * 16, params) if one.finish_reason == "stop"]
    assert len(ended) >= 8
    return ended


@pytest.mark.parametrize("schema", HONOURED, ids=json.dumps)
def test_every_text_obeys_its_schema(llm: LLM, schema: dict[str, Any]) -> None:
    for text in texts(llm, "json_schema", json.dumps(schema)):
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize(("schema", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_could_not_be_enforced_is_refused(schema: Any, said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(said)):
        check_grammar(Grammar(kind="json_schema", text=json.dumps(schema)))


@pytest.mark.parametrize("expression", ["^a$|^b$", "(^a|b)c", "^(a|bc)+$", r"[^\]$^a]\$\^", r"(?:\d\w\s){1,2}", "x|"])
def test_every_text_matches_its_expression(llm: LLM, expression: str) -> None:
    assert misread(expression) is None
    for text in texts(llm, "regex", expression):
        assert re.fullmatch(expression, text)


@pytest.mark.parametrize(
    "expression",
    ["a$b", "a^b", "(a$)?b", "(a$|b)c", "((a$))b", "(^a)+", "x(^a)", "a$$", r"\Aab\Z", "(?!a)b", "a(?=b)", "(?<!a)b", "(?<=a)b"],
)  # fmt: skip
def test_an_expression_that_would_be_misread_is_refused(expression: str) -> None:
    with pytest.raises(RequestError, match="The expression"):
        check_grammar(Grammar(kind="regex", text=expression))
