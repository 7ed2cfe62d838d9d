"""The structural tag of strict tools against the reader of calls: whatever text the tag allows, what is read as a call fits."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import jsonschema
import numpy as np
import pytest
import torch

from ingot.client.openai.answers import Delta, Reading, joined
from ingot.client.openai.reasoning import MARKS
from ingot.client.openai.schema_chat import Tool
from ingot.client.openai.tool_parsers import NOTATIONS, MarkedCalls
from ingot.client.openai.tool_tags import tag_of
from ingot.errors import RequestError
from ingot.runtime.grammars.check import check_grammar
from ingot.runtime.grammars.compiler import GrammarCompiler
from ingot.runtime.grammars.messages import Vocabulary
from ingot.runtime.params import Grammar
from ingot.runtime.plan import TokenMatcher

WEATHER = {
    "type": "object",
    "title": "Weather",
    "properties": {
        "city": {"$ref": "#/$defs/city", "description": "Where"},
        "days": {"type": "integer", "minimum": 1, "maximum": 3},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"city": {"type": "string", "maxLength": 4}},
}
TOOLS = [
    Tool.model_validate({"type": "function", "function": function})
    for function in ({"name": "weather", "strict": True, "parameters": WEATHER}, {"name": "clock"})
]
GOOD = '{"city": "Rome", "days": 2}'
MARKS_OF_CALLS = ["<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]"]
SPELLED = [  # parts of calls, so that a walk at random makes some, and of what is nearly one
    *("{", "}", "[", "]", ", ", ": ", '"', "\n", "\t", "\u00a0", "\u2003", ";", "<", "<|", "|python_tag|>", "x", "2", "7", "Rome"),
    *('"name"', '"arguments"', '"parameters"', '"weather"', '"clock"', '"type"', '"function"', '"city"', '"days"', "clock"),
    *("weather", "weather{", "<tool", "_call>", "[TOOL", "_CALLS]", "[ARGS", "]{", "</think>", "<think>", '": "', "</", "tool_call>"),
    *('{"name": "weather", "arguments": ', '{"name": "weather", "parameters": {"city": "', '"days": 2}', GOOD, '"days": 7}'),
]  # fmt: skip
END = len(SPELLED)
SPECIAL = {END + 1 + i: mark.encode() for i, mark in enumerate(MARKS_OF_CALLS)}
BYTES = range(END + 1 + len(MARKS_OF_CALLS), END + 1 + len(MARKS_OF_CALLS) + 256)  # no text that cannot be written
VOCABULARY = Vocabulary(
    tokens=[
        *(text.encode() for text in SPELLED),
        *(b"" for _ in range(len(SPECIAL) + 1)),
        *(bytes([byte]) for byte in range(256)),
        *[b""] * 7,  # which only pad the model
    ],
    eos_token_ids=[END],
    special=SPECIAL,
)


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(VOCABULARY)
    yield compiler
    compiler.close()


def begun(compiler: GrammarCompiler, family: str, *, several: bool = True, thoughts: str | None = None) -> TokenMatcher:
    tag = tag_of(TOOLS, NOTATIONS[family], several=several, thoughts=None if thoughts is None else MARKS[thoughts])
    check_grammar(tag)
    return compiler.compile(tag).result(60).begin()


def allowed_of(matcher: TokenMatcher) -> list[int]:
    masks = torch.zeros((1, -(-len(VOCABULARY.tokens) // 32)), dtype=torch.int32)
    forbids = matcher.fill(masks, 0)
    bits = np.unpackbits(masks.numpy().view(np.uint8), bitorder="little")[: len(VOCABULARY.tokens)]
    assert forbids == (not bits.all())
    return [int(token) for token in bits.nonzero()[0]]


def read(text: str, family: str, *, several: bool = True, thoughts: str | None = None) -> Delta:
    return Reading(tools=lambda: MarkedCalls(NOTATIONS[family]), reasoning=thoughts, several=several).whole(text)


def follows(matcher: TokenMatcher, text: str) -> bool:
    """Whether the text, a byte at a time, is allowed and may end there."""
    return all(matcher.accept(BYTES[byte]) for byte in text.encode()) and END in allowed_of(matcher)


def written(matcher: TokenMatcher, draw: random.Random, most: int = 60) -> str | None:
    """A text at random that follows the tag; None where it has not ended after that many tokens."""
    spelled = b""
    for _ in range(most):
        allowed = allowed_of(matcher)
        assert allowed, "nothing is allowed and nothing is at its end"
        likely = [token for token in allowed if token < BYTES[0]]
        token = draw.choice(likely if likely and draw.random() < 0.95 else allowed)
        if token > BYTES[-1]:
            continue
        if token == END:
            return spelled.decode(errors="replace")
        matcher.accept(token)
        spelled += VOCABULARY.tokens[token] or SPECIAL[token]
    return None


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("thoughts", [None, "qwen3", "deepseek_r1"])
@pytest.mark.parametrize("family", sorted(NOTATIONS))
def test_whatever_is_read_as_a_call_fits(
    compiler: GrammarCompiler, family: str, thoughts: str | None, several: bool
) -> None:
    draw = random.Random(f"{family} {thoughts} {several}")
    calls = 0
    for _ in range(60):
        text = written(begun(compiler, family, several=several, thoughts=thoughts), draw)
        found = [] if text is None else joined(read(text, family, several=several, thoughts=thoughts).calls)
        for call in found:
            arguments = json.loads(call["function"]["arguments"])
            assert call["function"]["name"] in ("weather", "clock"), text
            jsonschema.validate(arguments, WEATHER if call["function"]["name"] == "weather" else {"type": "object"})
        assert several or len(found) <= 1
        calls += len(found)
    assert calls


SPELLINGS = [  # of a call with those arguments, and what comes before and behind
    ("hermes", 'Well.\n<tool_call>\n{{"name": "weather", "arguments": {0}}}\n</tool_call>'),
    ("hermes", '<tool_call>{{"arguments": {0}, "name": "weather"}}</tool_call> Done <tool'),
    ("llama3_json", '{{"name": "weather", "parameters": {0}}}'),
    ("llama3_json", ' [{{"name": "weather", "arguments": {0}}}, {{"name": "clock"}}]'),
    ("llama3_json", '{{"name": "clock"}}; {{"type": "function", "name": "weather", "parameters": {0}}}'),
    ("llama3_json", 'Well <<|python_tag|>{{"name": "weather", "parameters": {0}}}'),
    ("mistral", '[TOOL_CALLS] [{{"name": "weather", "arguments": {0}}}, {{"name": "clock", "arguments": {{"a": 1}}}}]'),
    ("mistral", "Well. [TOOL_CALLS]weather[ARGS]{0}[TOOL_CALLS]clock{{}}"),
]


@pytest.mark.parametrize(("family", "text"), SPELLINGS)
def test_usual_spellings_are_allowed_and_fit(compiler: GrammarCompiler, family: str, text: str) -> None:
    for thoughts, before in ((None, ""), ("qwen3", "<think>a <tool_call>no</think>\n"), ("deepseek_r1", "so </think>")):
        matcher = begun(compiler, family, thoughts=thoughts)
        assert follows(matcher, before + text.format(GOOD))
        calls = joined(read(before + text.format(GOOD), family, thoughts=thoughts).calls)
        assert GOOD in [call["function"]["arguments"] for call in calls]
        for wrong in ('{"city": "Paris", "days": 2}', '{"city": "Rome"}', '{"city": "Rome", "days": 4}', "[]"):
            assert not follows(begun(compiler, family, thoughts=thoughts), before + text.format(wrong))
        assert not follows(
            begun(compiler, family, thoughts=thoughts), before + text.format(GOOD).replace("weather", "wind")
        )


@pytest.mark.parametrize("family", sorted(NOTATIONS))
@pytest.mark.parametrize(
    "text", ["", " ", "Hi {\n", "<", "<|", "<|x", "<<x <|python_ta<", "<th", "ä", "<think> [TOOL <tool_call", "[x"]
)
def test_other_text_is_free_and_may_end_anywhere(compiler: GrammarCompiler, family: str, text: str) -> None:
    is_call = family == "llama3_json" and text[:1] == "["
    assert follows(begun(compiler, family), text) == (not is_call)
    assert follows(begun(compiler, family, thoughts="qwen3"), text) == (not is_call)
    assert follows(begun(compiler, family, thoughts="deepseek_r1"), text + "<tool_call>[TOOL_CALLS]no<|python_tag|>")


@pytest.mark.parametrize(("family", "mark"), [("hermes", 0), ("llama3_json", 2), ("mistral", 3)])
def test_a_mark_may_be_one_token_and_free_text_costs_no_mask(compiler: GrammarCompiler, family: str, mark: int) -> None:
    matcher = begun(compiler, family)
    for byte in b"Well. ":
        assert matcher.accept(BYTES[byte])
    assert len(allowed_of(matcher)) == len(VOCABULARY.tokens), "special tokens and the end among them"
    assert matcher.accept(END + 1 + mark)
    inside = allowed_of(matcher)
    assert END not in inside
    assert BYTES[ord("x")] not in inside
    assert BYTES[ord("{")] in inside


@pytest.mark.parametrize("family", sorted(NOTATIONS))
def test_a_tool_that_can_never_be_called_is_refused(compiler: GrammarCompiler, family: str) -> None:
    endless = {"$ref": "#"}
    tool = {"type": "function", "function": {"name": "never", "strict": True, "parameters": endless}}
    tag = tag_of([*TOOLS, Tool.model_validate(tool)], NOTATIONS[family], several=True, thoughts=None)
    with pytest.raises(RequestError, match="no text fits"):
        compiler.compile(tag).result(60)


def test_twenty_tools_are_compiled(compiler: GrammarCompiler) -> None:
    tools = [
        Tool.model_validate(
            {"type": "function", "function": {"name": f"tool_{i}", "strict": True, "parameters": WEATHER}}
        )
        for i in range(20)
    ]
    matcher = (
        compiler.compile(tag_of(tools, NOTATIONS["hermes"], several=True, thoughts=MARKS["qwen3"])).result(60).begin()
    )
    assert follows(matcher, f'<tool_call>{{"name": "tool_19", "arguments": {GOOD}}}</tool_call>')


def test_a_tag_of_other_formats_is_refused() -> None:
    tag = {"type": "structural_tag", "format": {"type": "or", "elements": [{"type": "grammar", "grammar": "x"}]}}
    with pytest.raises(RequestError, match="grammar"):
        check_grammar(Grammar(kind="structural_tag", text=json.dumps(tag)))
