"""A decoder's vectors against transformers' hidden states, beside streams, whatever the cut into steps; and what is refused."""

from __future__ import annotations

import random
from array import array
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoints import CHECKPOINTS, read, save
from tests.encoders import write_tokenizer

from ingot.errors import RequestError
from ingot.manifest import FORMAT_VERSION, Embedding, Limits, Manifest
from ingot.runtime.embed_stream import NO_TOKENS, EmbedStream
from ingot.runtime.executor import Executor
from ingot.runtime.messages import RequestFailed, TokenChunk, TokenRequest
from ingot.runtime.params import SamplingParams
from ingot.runtime.programs.cpu import CpuProgram
from ingot.runtime.request import EmbedRequest, Prompt
from ingot.runtime.text import Tokenizer

LIMITS = Limits(max_model_len=96, max_num_seqs=6, max_num_batched_tokens=17, page_size=4, num_pages=60)


def true_vector(model: Any, tokens: list[int], pooling: str) -> torch.Tensor:
    with torch.inference_mode():
        states: torch.Tensor = model.model(torch.tensor([tokens])).last_hidden_state[0]
    return states.mean(0) if pooling == "mean" else states[-1]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_vectors_are_transformers_own(name: str, tmp_path: Path) -> None:
    """Prompts longer than a step, shared beginnings, pages too few for all at once, and streams that run beside."""
    model = save(name, tmp_path)
    config, weights = read(tmp_path)
    executor = Executor(CpuProgram(config, weights, LIMITS, dtype=torch.float32), LIMITS, [])
    rng = random.Random(7)
    shared = [rng.randrange(3, 160) for _ in range(33)]
    prompts = [[*shared, *(rng.randrange(3, 160) for _ in range(n))] for n in (1, 5, 63)] + [[9], shared]
    asked = {f"{pooling}{i}": (prompt, pooling) for i, prompt in enumerate(prompts) for pooling in ("mean", "last")}
    for request_id, (prompt, pooling) in asked.items():
        executor.add(TokenRequest(request_id=request_id, token_ids=prompt, params=NO_TOKENS, pooling=pooling))
        executor.add(TokenRequest(request_id=f"g{request_id}", token_ids=shared, params=SamplingParams(max_tokens=20)))
    found: dict[str, torch.Tensor] = {}
    tokens = 0
    while executor.has_work:
        for told in executor.step():
            assert isinstance(told, TokenChunk)
            tokens += len(told.token_ids)
            if told.vector is not None:
                found[told.request_id] = torch.tensor(array("f", told.vector))
    assert tokens == 20 * len(asked)
    assert executor.stats().generation_tokens == tokens
    assert executor.stats().pages_held == 0
    for request_id, (prompt, pooling) in asked.items():
        torch.testing.assert_close(found[request_id], true_vector(model, prompt, pooling), rtol=1e-4, atol=1e-4)


def test_a_prompt_may_fill_the_engine_and_no_more(tmp_path: Path) -> None:
    save("llama2", tmp_path)
    config, weights = read(tmp_path)
    executor = Executor(CpuProgram(config, weights, LIMITS, dtype=torch.float32), LIMITS, [])
    for length in (96, 97):
        executor.add(TokenRequest(request_id=str(length), token_ids=[5] * length, params=NO_TOKENS, pooling="last"))
    told = []
    while executor.has_work:
        told += executor.step()
    assert {one.request_id: type(one) for one in told} == {"96": TokenChunk, "97": RequestFailed}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    write_tokenizer(tmp_path, "bert")
    return Tokenizer.from_engine(tmp_path)


def manifest(*tasks: str) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        name="m",
        target="cpu",
        sm=[],
        source={},
        recipe={},
        dtype="float32",
        kv_dtype="float32",
        limits=Limits(max_model_len=12, max_num_seqs=1, max_num_batched_tokens=12, page_size=4, num_pages=0),
        memory={},
        quality=None,
        versions={},
        files={},
        rebuild="",
        built_at="",
        tasks=tasks,
        embedding=Embedding(size=4, pooling="cls", normalize=True),
    )


def stream(tokenizer: Tokenizer, text: str, *tasks: str, **fields: Any) -> EmbedStream:
    request = EmbedRequest(request_id="a", model="m", prompt=Prompt(text=text), **fields)
    return EmbedStream(request, tokenizer, manifest(*(tasks or ("embed",))))


def test_special_tokens_stay_whichever_side_is_cut(tokenizer: Tokenizer) -> None:
    """The tokenizer's own limit of 16 tokens is not the engine's: texts are refused or cut at 12."""
    text = "the boat is out " * 4
    whole = tokenizer.encode("the boat is out")
    cls, *words, sep = whole
    with pytest.raises(RequestError, match=r"has 18 tokens; this engine holds 12"):
        stream(tokenizer, text)
    assert stream(tokenizer, text, truncate="right").token_request.token_ids == [cls, *words, *words, *words[:2], sep]
    assert stream(tokenizer, text, truncate="left").token_request.token_ids == [cls, *words[2:], *words, *words, sep]
    assert stream(tokenizer, "the boat is out", truncate="left").token_request.token_ids == whole


def test_the_engine_says_how_to_pool_where_the_request_does_not(tokenizer: Tokenizer) -> None:
    assert stream(tokenizer, "boat").token_request.pooling == "cls"
    assert stream(tokenizer, "boat", pooling="mean").token_request.pooling == "mean"


@pytest.mark.parametrize(
    ("text", "tasks", "fields", "param"),
    [
        ("boat", ("generate",), {}, "model"),
        ("boat", ("generate", "embed"), {"pooling": "cls"}, "pooling"),
        ("boat", ("embed",), {"pooling": "max"}, "pooling"),
        ("boat", ("embed",), {"priority": 1 << 40}, "priority"),
        ("x" * 1000, ("embed",), {}, "input"),
        ("\ud800", ("embed",), {}, "input"),
    ],
)
def test_refusals_name_the_field(
    tokenizer: Tokenizer, text: str, tasks: tuple[str, ...], fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(RequestError) as caught:
        stream(tokenizer, text, *tasks, **fields)
    assert caught.value.param == param
