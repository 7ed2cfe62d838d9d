"""Texts that follow a grammar whatever the model would say; grammars that are wrong or hostile harm only their own request."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import wait
from typing import Any

import jsonschema
import msgspec
import pytest
from tests.runtime.random_program import RandomProgram
from tests.runtime.tokens import EOS, byte_tokenizer
from tests.waiting import until

from ingot.errors import IngotError, RequestError
from ingot.manifest import Limits
from ingot.runtime.executor import Executor
from ingot.runtime.grammars import compiler as compiler_module
from ingot.runtime.grammars.compiler import GrammarCompiler
from ingot.runtime.grammars.process import COMPILE_SECONDS
from ingot.runtime.llm import LLM, Completion
from ingot.runtime.messages import RequestFailed, TokenChunk, TokenRequest
from ingot.runtime.params import Grammar, SamplingParams

TOKENIZER = byte_tokenizer()
LIMITS = Limits(max_model_len=512, max_num_seqs=16, max_num_batched_tokens=64, page_size=8)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "colour": {"enum": ["red", "grün", None, 7]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        "child": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/child"}]},
    },
    "required": ["name", "age", "colour", "tags", "child"],
    "additionalProperties": False,
    "$defs": {"child": {"type": "object", "properties": {"id": {"type": "string", "pattern": "^[a-f]{4}$"}}}},
}


def program(steps_ahead: int = 0, num_pages: int = 1024) -> RandomProgram:
    return RandomProgram(
        num_pages=num_pages,
        page_size=8,
        max_num_seqs=16,
        vocab_size=TOKENIZER.vocab_size,
        eos=EOS,
        steps_ahead=steps_ahead,
    )


@pytest.fixture(scope="module")
def grammars() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(TOKENIZER.vocabulary())
    yield compiler
    compiler.close()


@pytest.fixture(params=[0, 1], ids=["settled", "ahead"])
def llm(request: pytest.FixtureRequest, grammars: GrammarCompiler) -> LLM:
    return make_llm(grammars, request.param)


def make_llm(grammars: GrammarCompiler, steps_ahead: int = 0, num_pages: int = 1024) -> LLM:
    """Shares one compile process with all tests, which therefore never close it."""
    llm = LLM.of(program(steps_ahead, num_pages), TOKENIZER, LIMITS, "random")
    llm._executor = Executor(program(steps_ahead, num_pages), LIMITS, [EOS], grammars=grammars)
    return llm


def schema(value: Any) -> Grammar:
    return Grammar(kind="json_schema", text=json.dumps(value))


def write(llm: LLM, grammar: Grammar, count: int = 1, **params: Any) -> list[Completion]:
    return llm.generate(["write"] * count, SamplingParams(grammar=grammar, **params))


# Random bytes beyond ASCII are hardly ever characters: grammars know UTF-8's shape, not that surrogates are none.
ASCII = {token: -100.0 for token in range(EOS) if TOKENIZER.token_bytes(token) >= b"\x80"}


def test_every_text_is_valid(llm: LLM) -> None:
    found = write(llm, schema(PERSON), 100, n=2, logprobs=2, logit_bias=ASCII)
    assert len(found) == 200
    for one in found:
        assert one.finish_reason == "stop"
        jsonschema.validate(json.loads(one.text), PERSON)
        assert one.logprobs is not None
        assert len(one.logprobs) == len(one.token_ids)
    assert len({one.text for one in found}) > 190


def test_preempted_sequences_go_on_where_they_were(grammars: GrammarCompiler) -> None:
    for steps_ahead in (0, 1):
        llm = make_llm(grammars, steps_ahead, num_pages=40)
        for one in write(llm, schema(PERSON), 24, logit_bias=ASCII):
            jsonschema.validate(json.loads(one.text), PERSON)
        assert llm.stats().preemptions > 0
        assert llm.stats().pages_held == 0


def test_choice_regex_and_ebnf(llm: LLM) -> None:
    choices = ["yes", 'n"o', "vielleicht\n", "ö"]
    assert {one.text for one in write(llm, Grammar(kind="choice", text=json.dumps(choices)), 40)} == set(choices)
    for one in write(llm, Grammar(kind="regex", text=r"[a-c]{3}-\d{2,4}"), 20):
        assert re.fullmatch(r"[a-c]{3}-\d{2,4}", one.text)
    for one in write(llm, Grammar(kind="ebnf", text='root ::= "a" root "b" | "c"'), 20, max_tokens=400):
        assert re.fullmatch(r"(a*)c(b*)", one.text)
        assert one.text.count("a") == one.text.count("b")


def test_the_rest_of_the_parameters_still_count(llm: LLM) -> None:
    digits = Grammar(kind="regex", text=r"\d{6}")
    (biased,) = write(llm, digits, logit_bias={TOKENIZER.encode("7")[0]: 100.0})
    assert biased.text == "777777"
    (greedy,) = write(llm, digits, temperature=0.0, top_k=1, repetition_penalty=1.5)
    assert re.fullmatch(r"\d{6}", greedy.text)
    (stopped,) = write(llm, digits, stop=("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"))
    assert (stopped.text, stopped.finish_reason) == ("", "stop")
    (cut,) = write(llm, digits, max_tokens=3)
    assert (len(cut.text), cut.finish_reason) == (3, "length")
    (ended,) = write(llm, digits, min_tokens=50)
    assert (len(ended.text), ended.finish_reason) == (6, "stop")
    with pytest.raises(RequestError, match="ignore_eos"):
        write(llm, digits, ignore_eos=True)


WRONG = [
    (schema({"properties": {"a": {"type": "objekt"}}}), "#/properties/a/type"),
    (schema({"anyOf": [{"type": "null"}, 3]}), "#/anyOf/1"),
    (schema({"properties": {"a": {"$ref": "#/$defs/b"}}}), "#/properties/a/$ref"),
    (schema({"$ref": "http://localhost/secret"}), "#/$ref"),
    (schema({"items": {"uniqueItems": True}}), "#/items/uniqueItems"),
    (schema({"properties": {"a": {"not": {}}}}), "#/properties/a/not"),
    (schema({"type": "string", "minLength": -1}), "#/minLength"),
    (schema({"type": "object", "required": ["a"]}), "#/required"),
    (schema({"type": "array", "minItems": 10**9}), "#/minItems"),
    (schema({"anyOf": [{"type": "null"}] * 10_000}), "characters|#/anyOf"),
    (schema({"enum": list(range(5000))}), "#/enum"),
    (schema({"$ref": "#"}), "no text fits"),
    (schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}), "no text fits"),
    (Grammar(kind="regex", text="(a"), "parenthesis"),
    (Grammar(kind="regex", text="(" * 30_000 + "a" + ")" * 30_000), "grammar"),
    (Grammar(kind="ebnf", text="root ::= nothing"), "nothing"),
    (Grammar(kind="choice", text="[]"), "choices"),
    (Grammar(kind="choice", text='["a", 3]'), "no string"),
    (Grammar(kind="regex", text="a" * 70_000), "70000 characters"),
]


@pytest.mark.parametrize(("grammar", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_is_wrong_is_said(grammars: GrammarCompiler, grammar: Grammar, said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(said) if "|" not in said else said):
        write(make_llm(grammars), grammar)


def test_attack_14_deep_schemas_are_refused_without_recursion(grammars: GrammarCompiler) -> None:
    text = '{"properties":{"a":' * 2000 + "{}" + "}}" * 2000
    with pytest.raises(RequestError, match="deeper"):
        write(make_llm(grammars), Grammar(kind="json_schema", text=text))


def test_attack_14_catastrophic_expressions_are_harmless(grammars: GrammarCompiler) -> None:
    (found,) = write(make_llm(grammars), Grammar(kind="regex", text="(a+)+$"), max_tokens=50)
    assert re.fullmatch("a+", found.text)


def hostile() -> Grammar:
    """Within every limit of size, and minutes of work for the compiler."""
    return schema(
        {
            "anyOf": [
                {"type": "object", "properties": {f"k{i}-{j}": {"type": "string"} for j in range(6)}}
                for i in range(250)
            ]
        }
    )


def test_attack_14_a_costly_grammar_holds_up_nobody(grammars: GrammarCompiler) -> None:
    """While it is compiled others take their steps; then it is refused."""
    executor = Executor(program(), LIMITS, [EOS], grammars=grammars)
    executor.add(TokenRequest(request_id="free", token_ids=[1], params=SamplingParams(max_tokens=400, ignore_eos=True)))
    executor.step()
    executor.add(TokenRequest(request_id="hostile", token_ids=[1], params=SamplingParams(grammar=hostile())))
    assert executor.stats().waiting == 1
    told: list[TokenChunk | RequestFailed] = []
    longest, began = 0.0, time.monotonic()
    while executor.has_work and time.monotonic() - began < 60:
        before = time.perf_counter()
        told += executor.step()
        longest = max(longest, time.perf_counter() - before)
    (failed,) = (one for one in told if isinstance(one, RequestFailed))
    assert "too much" in failed.message
    assert sum(one.request_id == "free" for one in told) == 399
    assert longest < COMPILE_SECONDS - 1  # no step waited for the compiler, which had all of its budget


@pytest.mark.parametrize("steps_ahead", [0, 1])
def test_attack_14_an_ambiguous_grammar_ends_before_it_holds_up_others(
    grammars: GrammarCompiler, steps_ahead: int
) -> None:
    """Its parser takes ever longer for each token: milliseconds after a hundred, a second after a thousand."""
    executor = Executor(program(steps_ahead), LIMITS, [EOS], grammars=grammars)
    text = f'root ::= "{steps_ahead}" | root root'  # each its own: one that took too long is refused from then on
    ambiguous = SamplingParams(grammar=Grammar(kind="ebnf", text=text), n=8)
    no_end = SamplingParams(max_tokens=400, ignore_eos=True)
    for name, params in (("hostile", ambiguous), ("free", no_end)):
        bias = msgspec.structs.replace(params, logit_bias={EOS: -100.0})  # neither ends by itself
        executor.add(TokenRequest(request_id=name, token_ids=[1], params=bias))
    told: list[TokenChunk | RequestFailed] = []
    while executor.has_work:
        told += executor.step()
    (failed,) = (one for one in told if isinstance(one, RequestFailed))
    assert (failed.request_id, failed.code) == ("hostile", RequestError.code)
    assert "too long" in failed.message
    chunks = [one for one in told if isinstance(one, TokenChunk)]
    assert {one.finish_reason for one in chunks if one.request_id == "hostile"} == {None}
    assert sum(one.request_id == "free" for one in chunks) == 400
    assert told.index(failed) > max(
        i for i, one in enumerate(told) if one.request_id == "hostile" and one is not failed
    )
    assert executor.stats().pages_held == 0


def test_an_abort_while_compiling_ends_every_sequence(grammars: GrammarCompiler) -> None:
    executor = Executor(program(), LIMITS, [EOS], grammars=grammars)
    executor.add(
        TokenRequest(
            request_id="a", token_ids=[1], params=SamplingParams(grammar=schema(PERSON | {"title": "new"}), n=3)
        )
    )
    executor.abort("a")
    told = executor.step()
    assert [(one.index, one.finish_reason) for one in told if isinstance(one, TokenChunk)] == [
        (0, "abort"),
        (1, "abort"),
        (2, "abort"),
    ]
    assert not executor.has_work


def test_attack_15_the_cache_of_grammars_is_bounded_and_used(
    grammars: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait(grammars._cache.values())  # what other tests left unfinished is not forgotten
    monkeypatch.setattr(compiler_module, "MAX_CACHED", 4)
    llm = make_llm(grammars)
    for i in range(8):
        write(llm, Grammar(kind="regex", text=f"x{i}"))
    assert grammars.cached <= 5
    monkeypatch.setattr(compiler_module, "MAX_CACHED_BYTES", 0)
    write(llm, Grammar(kind="regex", text="x8"))
    assert grammars.cached == 1
    again = Grammar(kind="regex", text="x7")
    assert grammars.compile(again) is grammars.compile(again)


def test_a_compile_process_that_dies_is_started_again(grammars: GrammarCompiler) -> None:
    process = grammars._process._process
    assert process is not None
    process.kill()
    process.wait()
    (found,) = write(make_llm(grammars), Grammar(kind="regex", text="born again"))
    assert found.text == "born again"


def test_a_warm_compiler_waits_for_nothing_and_leaves_nothing() -> None:
    compiler = GrammarCompiler(TOKENIZER.vocabulary())
    compiler.warm()
    until(lambda: compiler._process._process)
    process = compiler._process._process
    constraint = compiler.compile(Grammar(kind="regex", text="warm")).result(120)
    assert constraint.begin().accept(TOKENIZER.encode("w")[0])
    assert compiler._process._process is process  # the one that was started before anybody asked
    compiler.close()
    assert process.poll() is not None
    with pytest.raises(IngotError, match="closed"):
        compiler._process.start()
