"""Captured draws are the sampler's own, whatever a step's rows ask for. Needs no GPU: a graph does its step again."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tests.runtime.host_cuda import HostCuda, host_cuda

from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import Arrival
from ingot.runtime.programs.draw_graphs import DrawGraphs
from ingot.runtime.programs.model_step import Sampled
from ingot.runtime.sampler import Kind, Sampler

__all__ = ["host_cuda"]

VOCAB, BUCKET = 300, 8
PLAIN = [SamplingParams(temperature=0.0), SamplingParams(temperature=0.7), SamplingParams(temperature=1.5)]
TOP_K = [
    SamplingParams(temperature=1.1, top_k=1),
    SamplingParams(top_k=128, top_p=0.8),
    SamplingParams(top_k=9, min_p=0.1),
]
TRUNCATED = [SamplingParams(top_p=0.7), SamplingParams(temperature=2.0, min_p=0.02), SamplingParams(top_p=1e-6)]


def graphs(host: HostCuda, decoded: Sampled) -> DrawGraphs:
    made = DrawGraphs(BUCKET, torch.device("cpu"))
    made.capture(BUCKET, decoded, host.capture)  # type: ignore[arg-type]
    return made


def sampler(params: list[SamplingParams]) -> Sampler:
    made = Sampler(max_num_seqs=BUCKET, vocab_size=VOCAB)
    for row, each in enumerate(params):
        made.admit(Arrival(row, row, each, random.getrandbits(64), [1], []))
    return made


@pytest.mark.parametrize(
    ("params", "last"),
    [(PLAIN, Kind.PLAIN), (PLAIN + TOP_K, Kind.TOP_K), (PLAIN + TRUNCATED, Kind.TRUNCATED), (TOP_K + TRUNCATED, Kind.TRUNCATED)],
)  # fmt: skip
def test_captured_draws_are_the_samplers(host_cuda: HostCuda, params: list[SamplingParams], last: Kind) -> None:
    decoded = Sampled(logits=torch.zeros(BUCKET, VOCAB), tokens=torch.zeros(BUCKET, dtype=torch.int32))
    captured, eager = graphs(host_cuda, decoded), sampler(params)
    for step in range(20):
        decoded.logits.copy_(torch.randn(BUCKET, VOCAB) * 3)
        decoded.logits[len(params) :] = float("nan")
        decoded.tokens.copy_(decoded.logits.argmax(-1))
        rows = np.array(random.sample(range(len(params)), len(params)))
        positions = np.full(len(rows), 5 + step)
        draws = eager.draws(rows, positions)
        assert draws is not None
        assert draws.last == last
        assert captured.takes(BUCKET, draws)
        found = captured.run(BUCKET, draws).tolist()
        assert found == eager.sample(decoded.logits[: len(rows)], rows, positions).tolist()
    assert host_cuda.replays == 20


@pytest.mark.parametrize(
    "more",
    [{"presence_penalty": 0.5}, {"repetition_penalty": 1.2}, {"logit_bias": {3: 1.0}}, {"min_tokens": 4}],
    ids=lambda more: next(iter(more)),
)
def test_rows_that_want_more_than_a_draw_are_not_captured(more: dict[str, float]) -> None:
    eager = sampler([PLAIN[1], SamplingParams(**more)])  # type: ignore[arg-type]
    assert eager.draws(np.array([0, 1]), np.array([2, 2])) is None
    assert eager.draws(np.array([0]), np.array([2])) is not None


def test_a_large_top_k_is_not_captured(host_cuda: HostCuda) -> None:
    decoded = Sampled(logits=torch.zeros(BUCKET, VOCAB), tokens=torch.zeros(BUCKET, dtype=torch.int32))
    captured = graphs(host_cuda, decoded)
    draws = sampler([SamplingParams(top_k=129)]).draws(np.array([0]), np.array([1]))
    assert draws is not None
    assert not captured.takes(BUCKET, draws)
    few = sampler(PLAIN).draws(np.array([0]), np.array([1]))
    assert few is not None
    assert not captured.takes(16, few), "a bucket without graphs"
