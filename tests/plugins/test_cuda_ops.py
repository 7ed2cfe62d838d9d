"""Whole steps on the cuda target's kernels, interpreted on the CPU: ways that differ in which kernel does what agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.exactness import assert_as_exact_as_torch
from tests.plugins.test_linear_kernels import make_weight
from tests.ptx.launch import Setting, interpreted
from torch import Tensor

from ingot.network.config import ModelConfig
from ingot.network.decoder import decoder
from ingot.network.ops import Batch, Ops
from ingot.network.weights import Scheme, Weight, linear_shape
from ingot.plugins import cuda_ops
from ingot.plugins.attention.prefill import PrefillChoice
from ingot.plugins.cuda_ops import CudaOps
from ingot.plugins.linear.launch import Choice, Choices, Skinny
from ingot.plugins.quantize.launch import Quantized
from ingot.plugins.quantize.reference import quantize_fp8
from ingot.plugins.reference_ops import ReferenceOps
from ingot.plugins.rms_norm.launch import rms_norm
from ingot.plugins.variants import Variants

BF16, CPU, PAGE, TOKENS = torch.bfloat16, torch.device("cpu"), 16, 24
Place = tuple[str, int, int, int]
HEAD: dict[Place, Choice] = {("none", 64, 128, 32): Skinny()}  # PyTorch's own has no float32 output on a CPU
CONFIG = ModelConfig(
    family="llama", vocab_size=64, hidden_size=128, intermediate_size=128, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=64,
    max_position=64, rms_norm_eps=1e-5, rope_theta=10_000.0, windows=(0,),
)  # fmt: skip


def make_weights(scheme: Scheme, config: ModelConfig = CONFIG) -> dict[str, Weight[Tensor]]:
    linears = {"qkv": linear_shape(config, "qkv"), "o": (128, 128), "gate_up": (256, 128), "down": (128, 128)}
    found = {f"layers.0.{kind}": make_weight(scheme, n, k, BF16, CPU, bias=False) for kind, (n, k) in linears.items()}
    for name in ("layers.0.input_norm", "layers.0.post_norm", "final_norm"):
        found[name] = Weight(scheme=Scheme.NONE, data=torch.rand(128).bfloat16() + 0.5)
    for name in ("embed", "lm_head"):
        found[name] = make_weight(Scheme.NONE, 64, 128, BF16, CPU, bias=False)
    return found


def step(
    weights: dict[str, Weight[Tensor]],
    variants: Variants,
    tuned: Mapping[Place, Choice] = HEAD,
    config: ModelConfig = CONFIG,
) -> Tensor:
    """Logits of every token of one prompt."""
    caches = [torch.full((2, 2, 1, PAGE, config.head_dim), torch.nan).bfloat16()]
    choices = Choices(tuned=tuned, variants=variants)
    return answer(CudaOps(config, weights, caches, dtype=BF16, choices=choices), config)


def answer(ops: Ops[Any], config: ModelConfig, whole: torch.dtype = torch.int32) -> Tensor:
    """`whole`: of the batch's integers."""
    positions = torch.arange(TOKENS, dtype=whole)
    batch = Batch(
        token_ids=torch.arange(TOKENS) * 7 % 64, positions=positions, slots=positions, page_table=torch.tensor([[0, 1]], dtype=whole),
        query_starts=torch.tensor([0, TOKENS], dtype=whole), kv_lengths=torch.tensor([TOKENS], dtype=whole),
        logit_rows=positions,
    )  # fmt: skip
    logits: Tensor = decoder(ops, config, batch)
    return logits


@pytest.mark.parametrize("scheme", [Scheme.NONE, Scheme.INT8])
def test_a_product_that_ends_with_silu_makes_the_same_step(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(cuda_ops, "well_filled", lambda rows, n: not asked.append(rows))
    weights = make_weights(scheme)
    with interpreted(Setting()):
        usual, found = step(weights, Variants()), step(weights, Variants(gated_rows=TOKENS))
    assert asked == ([TOKENS] if scheme is Scheme.NONE else [])  # int8 has no such product
    assert ((found - usual).norm() / usual.norm()).item() < 0.01
    with interpreted(Setting()):
        assert torch.equal(step(weights, Variants(gated_rows=TOKENS + 1)), usual)


def rounded(x: Tensor, reader: Weight[Tensor] | None) -> Tensor | Quantized:
    """By the reader's scale, in PyTorch: Triton's interpreter rounds to e4m3 wrongly."""
    if reader is None or reader.input_scale is None:
        return x
    values = quantize_fp8(x, reader.input_scale)
    return Quantized(values=values, scales=reader.input_scale.expand(len(x)).contiguous())


# Attention by prefill.cu, which takes head dims of 128: products of bf16 are wrong in Triton's interpreter.
ONE_HEAD, BY_CUDA = replace(CONFIG, num_heads=1, head_dim=128), PrefillChoice(cuda=True)


def make_calibrated_weights() -> dict[str, Weight[Tensor]]:
    scales = {"qkv": 0.015, "o": 0.01, "gate_up": 0.015, "down": 0.02}
    found = make_weights(Scheme.FP8, ONE_HEAD)
    for kind, scale in scales.items():
        name = f"layers.0.{kind}"
        found[name] = replace(found[name], input_scale=torch.tensor([scale]))
    return found


def reference(weights: dict[str, Weight[Tensor]], dtype: torch.dtype) -> Tensor:
    caches = [torch.zeros(2, 2, PAGE, 1, 128, dtype=dtype)]
    return answer(ReferenceOps(ONE_HEAD, weights, caches, dtype=dtype), ONE_HEAD, torch.int64)


@pytest.mark.parametrize("gated_rows", [0, TOKENS])
def test_a_calibrated_model_answers_as_the_reference(gated_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gate and up's product rounds for down itself: by skinny.cu, and by gated.cu."""
    monkeypatch.setattr(
        cuda_ops, "rms_norm", lambda x, residual, weight, eps, to: rounded(rms_norm(x, residual, weight, eps, None), to)
    )
    monkeypatch.setattr(cuda_ops, "ended", lambda x, to: rounded(x, to) if isinstance(x, Tensor) else x)
    for unasked in ("silu_mul", "skinny_gated" if gated_rows else "gated"):
        monkeypatch.setattr(cuda_ops, unasked, None)
    monkeypatch.setattr(cuda_ops, "well_filled", lambda rows, n: True)
    weights = make_calibrated_weights()
    tuned = {**HEAD, **{("fp8", n, 128, 32): Skinny() for n in (128, 256, 384)}}
    with interpreted(Setting()):
        found = step(weights, Variants(prefill=BY_CUDA, gated_rows=gated_rows), tuned, ONE_HEAD)
    truth, plain = (reference(weights, dtype) for dtype in (torch.float32, BF16))
    assert_as_exact_as_torch(found, plain, truth)
