"""The last layer's attention of a step where few rows are wanted: their queries alone are computed, every row's keys and values."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.exactness import assert_as_exact_as_torch
from tests.plugins.test_cuda_ops import CONFIG
from tests.plugins.test_linear_kernels import make_weight
from tests.poison import poisoned
from tests.ptx.launch import Setting, interpreted
from torch import Tensor

from ingot.network.config import ModelConfig
from ingot.network.ops import Batch
from ingot.network.weights import Scheme, Weight
from ingot.plugins import cuda_ops
from ingot.plugins.attention import asked
from ingot.plugins.attention.launch import DecodeChoice
from ingot.plugins.attention.prefill import PrefillChoice, Tiles
from ingot.plugins.attention.step import CudaBatch
from ingot.plugins.cuda_ops import CudaOps
from ingot.plugins.linear.launch import Choices
from ingot.plugins.quantize.launch import Quantized, floats, quantize_rows
from ingot.plugins.random_weights import FP8_INPUT_SCALES, random_weights
from ingot.plugins.reference_ops import ReferenceOps
from ingot.plugins.variants import Variants

BF16, PAGE = torch.bfloat16, 16
COUNTS, LENGTHS, WANTED = [1, 1, 5, 20], [9, 70, 25, 20], [0, 1, 6, 26]
int32 = partial(torch.tensor, dtype=torch.int32)


def make_batch(tables: Tensor) -> CudaBatch:
    """Two sequences decode beside a prompt's second chunk and a whole prompt; rows of the page table in another order."""
    at = [list(range(length - count, length)) for count, length in zip(COUNTS, LENGTHS, strict=True)]
    rows = [2, 0, 3, 1]
    slots = [int(tables[row, p // PAGE]) * PAGE + p % PAGE for row, part in zip(rows, at, strict=True) for p in part]
    starts = int32([0, *torch.tensor(COUNTS).cumsum(0).tolist()])
    return CudaBatch(
        token_ids=torch.zeros(sum(COUNTS), dtype=torch.int32), positions=int32([p for part in at for p in part]), slots=int32(slots),
        page_table=tables, query_starts=starts, kv_lengths=int32(LENGTHS), logit_rows=int32(WANTED), rows=int32(rows), num_decodes=2,
        decode_choice=DecodeChoice(splits=1), tiles=Tiles(seqs=int32([3, 2]), starts=int32([0, 0])),
    )  # fmt: skip


def as_reference(batch: CudaBatch) -> Batch[Tensor]:
    assert batch.rows is not None
    return Batch(
        token_ids=batch.token_ids.long(), positions=batch.positions.long(), slots=batch.slots.long(), page_table=batch.page_table[batch.rows].long(),
        query_starts=batch.query_starts.long(), kv_lengths=batch.kv_lengths.long(), logit_rows=batch.logit_rows.long(),
    )  # fmt: skip


@pytest.mark.parametrize(("fp8", "norm", "rounds"), [(False, False, False), (True, True, True)])
def test_wanted_rows_answer_as_all_do(fp8: bool, norm: bool, rounds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, num_heads=4, num_kv_heads=1, head_dim=128, qk_norm=norm)
    weights = random_weights(config, Scheme.NONE, BF16, torch.device("cpu"))
    if rounds:
        o = make_weight(Scheme.FP8, 128, 512, BF16, torch.device("cpu"), bias=False)
        weights["layers.0.o"] = replace(o, input_scale=torch.tensor(0.01))
    with interpreted(Setting()):
        check(config, weights, torch.randn(sum(COUNTS), 128).bfloat16(), monkeypatch, fp8=fp8, rounds=rounds)


@pytest.mark.gpu
@pytest.mark.parametrize("scheme", [Scheme.NONE, Scheme.FP8])
def test_wanted_rows_answer_as_all_do_on_a_gpu(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, num_heads=4, num_kv_heads=1, head_dim=128)
    with torch.device("cuda"):
        scales = FP8_INPUT_SCALES if scheme is Scheme.FP8 else None
        weights = random_weights(config, scheme, BF16, torch.device("cuda"), input_scales=scales)
        x: Tensor | Quantized = torch.randn(sum(COUNTS), 128).bfloat16()
        if scheme is Scheme.FP8:
            x = quantize_rows(floats(x).bfloat16(), weights["layers.0.qkv"])
        check(config, weights, x, monkeypatch, fp8=scheme is Scheme.FP8, rounds=scheme is Scheme.FP8)


def check(
    config: ModelConfig, weights: dict[str, Weight[Tensor]], x: Tensor | Quantized, monkeypatch: pytest.MonkeyPatch, *, fp8: bool, rounds: bool
) -> None:  # fmt: skip
    """Of an FP8 cache, and of an output that is rounded for o."""
    cache = torch.randn(2, 20, 1, PAGE, 128).to(torch.float8_e4m3fn if fp8 else BF16)
    batch = make_batch(torch.randperm(20).int().view(4, 5))
    outs, caches = [], []
    for least in (asked.LEAST_TOKENS, sum(COUNTS)):
        monkeypatch.setattr(asked, "LEAST_TOKENS", least)
        caches.append(cache.clone())
        choices = Choices(tuned={}, variants=Variants(prefill=PrefillChoice(cuda=True)))
        ops = CudaOps(config, weights, caches[-1:], dtype=BF16, choices=choices, max_seqs=8, max_position=128)
        if least == sum(COUNTS):
            monkeypatch.setattr(cuda_ops, "attention_block", None)
        with poisoned():
            out = ops.wanted_attention(0, x, batch)
        assert isinstance(out, Quantized) == rounds
        outs.append(floats(out))
    usual, found = outs
    true = [cache.float().transpose(2, 3).contiguous()]
    truth = ReferenceOps(config, weights, true, dtype=torch.float32).wanted_attention(0, floats(x), as_reference(batch))
    assert_as_exact_as_torch(found, usual, truth)
    written = [torch.stack([each[:, int(s) // PAGE, :, int(s) % PAGE] for s in batch.slots]).float() for each in caches]
    assert torch.allclose(*written, rtol=0.13 if fp8 else 0.02, atol=0.02)


def test_few_rows_of_a_long_step_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "LEAST_TOKENS", 20)
    batch = make_batch(torch.zeros(4, 5, dtype=torch.int32))
    assert asked.asks_few(batch, 4)
    assert not asked.asks_few(batch, 3)  # decode attention has no room for a fourth
    assert not asked.asks_few(replace(batch, logit_rows=int32(list(range(7)))), 8)  # a scored prompt
    assert not asked.asks_few(replace(batch, token_ids=int32([0] * 19)), 4)
