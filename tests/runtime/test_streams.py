"""From request to token request, and from tokens back to text: checks, stop strings, log-probabilities, usage."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.tokens import EOS, byte_tokenizer

from ingot.errors import CapacityError, IngotError, QueueFullError, RequestError
from ingot.manifest import Limits
from ingot.runtime.messages import Abort, RequestFailed, TokenChunk
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import TokenLogprobs
from ingot.runtime.request import Chunk, GenerateRequest, Logprob, Prompt, Usage
from ingot.runtime.streams import RequestStream, as_error

LIMITS = Limits(max_model_len=64, max_num_seqs=4, max_num_batched_tokens=64, page_size=4)


TOKENIZER = byte_tokenizer()


def stream(prompt: str | list[int] = "hi", **params: Any) -> RequestStream:
    given = Prompt(text=prompt) if isinstance(prompt, str) else Prompt(token_ids=prompt)
    return RequestStream(
        GenerateRequest(request_id="r", model="m", prompt=given, params=SamplingParams(**params)), TOKENIZER, LIMITS
    )


def chunk(tokens: str | list[int], **fields: Any) -> TokenChunk:
    ids = TOKENIZER.encode(tokens) if isinstance(tokens, str) else tokens
    return TokenChunk(**{"request_id": "r", "index": 0, "token_ids": ids, **fields})


def feed(stream: RequestStream, *chunks: TokenChunk) -> tuple[list[Chunk], list[Abort]]:
    told, aborts = [], []
    for one in chunks:
        out, ends = stream.feed(one)
        told += out
        aborts += ends
    return told, aborts


def test_request_becomes_token_request() -> None:
    one = stream("hé", max_tokens=3)
    assert TOKENIZER.decode(one.token_request.token_ids) == "hé"
    assert one.token_request.params.max_tokens == 3


def test_chunks_carry_text_prompt_and_usage() -> None:
    one = stream("hi", n=2)
    told, aborts = feed(
        one,
        chunk("a"),
        chunk("b", index=1),
        chunk("c", finish_reason="length", cached_tokens=1),
        chunk([], index=1, finish_reason="abort"),
    )
    assert [(c.index, c.text, c.finish_reason) for c in told] == [
        (0, "a", None),
        (1, "b", None),
        (0, "c", "length"),
        (1, "", "abort"),
    ]
    prompt = one.token_request.token_ids
    assert [c.prompt_token_ids for c in told] == [prompt, prompt, None, None]
    assert told[2].usage == Usage(prompt_tokens=2, completion_tokens=2, cached_tokens=1)
    assert (aborts, one.finished) == ([], True)


@pytest.mark.parametrize(("include", "text"), [(False, "ab"), (True, "ab;")])
def test_stop_token_is_a_token_but_not_text(include: bool, text: str) -> None:
    stop = TOKENIZER.encode(";")[0]
    one = stream(stop_token_ids=(stop,), include_stop_in_output=include)
    (last,) = feed(one, chunk("ab;", finish_reason="stop", stop_reason=stop))[0]
    assert (last.text, last.stop_reason, len(last.token_ids)) == (text, stop, 3)
    assert last.usage is not None
    assert last.usage.completion_tokens == 3


def test_eos_shows_only_where_it_is_asked_for() -> None:
    ended = chunk([*TOKENIZER.encode("a"), EOS], finish_reason="stop")
    assert feed(stream(), ended)[0][0].text == "a"
    assert feed(stream(include_stop_in_output=True), ended)[0][0].text == "a"
    assert feed(stream(include_stop_in_output=True, skip_special_tokens=False), ended)[0][0].text == "a</s>"


@pytest.mark.parametrize(("include", "text"), [(False, "one "), (True, "one STOP")])
def test_stop_string_ends_and_aborts_the_sequence(include: bool, text: str) -> None:
    one = stream(stop=("STOP",), include_stop_in_output=include)
    told, aborts = feed(one, *[chunk(letter) for letter in "one STOPmore"])
    assert "".join(c.text for c in told) == text
    assert (told[-1].finish_reason, told[-1].stop_reason) == ("stop", "STOP")
    assert told[-1].usage == Usage(prompt_tokens=2, completion_tokens=8, cached_tokens=0)
    assert aborts == [Abort(request_id="r", index=0)]
    assert feed(one, chunk([], finish_reason="abort")) == ([], []), (
        "the executor's answer to the abort says nothing new"
    )


def test_tokens_past_a_stop_string_are_cut() -> None:
    told, _ = feed(stream(stop=("b",)), chunk("abc", logprobs=[TokenLogprobs(-1.0, 1, [])] * 3))
    assert TOKENIZER.decode(told[0].token_ids) == "ab"
    assert [one.text for one in told[0].logprobs or []] == ["a", "b"]


def test_stop_string_in_the_last_token_needs_no_abort() -> None:
    told, aborts = feed(stream(stop=("b",)), chunk("ab", finish_reason="length"))
    assert (told[0].text, told[0].finish_reason, told[0].stop_reason, aborts) == ("a", "stop", "b", [])


def test_min_tokens_keeps_stop_strings_from_ending_the_text() -> None:
    told, _ = feed(stream(stop=("b",), min_tokens=3), *[chunk(letter) for letter in "abbb"])
    assert "".join(c.text for c in told) == "ab"
    assert told[-1].usage is not None
    assert told[-1].usage.completion_tokens == 3


@given(text=st.text(max_size=12), sizes=st.lists(st.integers(1, 5), min_size=1), stop=st.text("ab é", max_size=2))
def test_streamed_in_any_pieces_the_text_is_the_same(text: str, sizes: list[int], stop: str) -> None:
    tokens = TOKENIZER.encode(text)[:50]
    stops = (stop,) if stop else ()
    whole = feed(stream(stop=stops), chunk(tokens, finish_reason="length"))[0]
    pieces, start = [], 0
    for turn in range(len(tokens)):
        end = start + sizes[turn % len(sizes)]
        pieces.append(chunk(tokens[start:end], finish_reason="length" if end >= len(tokens) else None))
        start = end
        if end >= len(tokens):
            break
    told = feed(stream(stop=stops), *pieces)[0]
    assert "".join(c.text for c in told) == (whole[0].text if tokens else "")


def test_logprobs_spell_tokens_as_text_and_bytes() -> None:
    tokens = TOKENIZER.encode("é")
    found = [TokenLogprobs(-0.5, 2, [(tokens[1], -0.25), (tokens[0], -0.5)]), TokenLogprobs(-1.0, 1, [])]
    told, _ = feed(stream("ab", prompt_logprobs=1), chunk(tokens, logprobs=found, prompt_logprobs=[None, found[1]]))
    first, second = told[0].logprobs or []
    assert (first.text, first.bytes, first.rank, second.bytes) == ("\ufffd", [0xC3], 2, [0xA9])
    assert [(one.token_id, one.bytes, one.rank) for one in first.top] == [
        (tokens[1], [0xA9], 1),
        (tokens[0], [0xC3], 2),
    ]
    b = Logprob(token_id=TOKENIZER.encode("b")[0], text="b", bytes=[98], logprob=-1.0, rank=1)
    assert told[0].prompt_logprobs == [None, b]


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2.0}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"presence_penalty": 3.0}, "presence_penalty"),
        ({"frequency_penalty": -3.0}, "frequency_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
        ({"min_tokens": 63}, "min_tokens"),
        ({"stop": ("",)}, "stop"),
        ({"stop": ("x" * 1025,)}, "stop"),
        ({"stop": tuple("abcdefghijklmnopq")}, "stop"),
        ({"stop_token_ids": (257,)}, "stop_token_ids"),
        ({"stop_token_ids": (1,) * 129}, "stop_token_ids"),
        ({"logit_bias": {257: 1.0}}, "logit_bias"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
        ({"logit_bias": {1: 101.0}}, "logit_bias"),
        ({"logit_bias": {1: float("nan")}}, "logit_bias"),
        ({"max_tokens": 63}, "max_tokens"),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused_by_name(params: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        stream("hi", **params)
    assert caught.value.param == param
    assert caught.value.mend


def test_parameters_of_the_wrong_type_are_refused() -> None:
    with pytest.raises(RequestError, match="temperature"):
        stream("hi", temperature="hot")


def test_largest_parameters_are_taken() -> None:
    stream("hi", max_tokens=62, min_tokens=62, temperature=2.0, top_p=1.0, logprobs=20, n=128, seed=-(2**63))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "no tokens"),
        ("x" * 64, "64 tokens; this engine holds 64"),
        ("x" * 500, "500 characters"),
        ("\ud800", "not valid Unicode"),
        ([1, 257], "257"),
        ([-1], "-1"),
    ],
)
def test_prompts_that_cannot_run_are_refused(prompt: str | list[int], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        stream(prompt)
    assert caught.value.param == "prompt"


def test_too_long_a_request_names_both_numbers() -> None:
    with pytest.raises(RequestError, match="60 tokens and max_tokens is 5: 65 together; this engine holds 64"):
        stream("x" * 60, max_tokens=5)


@pytest.mark.parametrize("prompt", [Prompt(), Prompt(text="a", token_ids=[1])])
def test_a_prompt_is_given_once(prompt: Prompt) -> None:
    with pytest.raises(RequestError, match="exactly one"):
        RequestStream(GenerateRequest(request_id="r", model="m", prompt=prompt), TOKENIZER, LIMITS)


def test_priority_fits_the_wire() -> None:
    request = GenerateRequest(request_id="r", model="m", prompt=Prompt(text="a"), priority=2**40)
    with pytest.raises(RequestError, match="priority"):
        RequestStream(request, TOKENIZER, LIMITS)


@pytest.mark.parametrize("kind", [RequestError, QueueFullError, CapacityError, IngotError])
def test_failures_come_back_as_the_errors_they_were(kind: type[IngotError]) -> None:
    error = as_error(RequestFailed(request_id="r", code=kind.code, message="What.", mend="Do this."))
    assert type(error) is kind
    assert str(error) == "What. Do this."
