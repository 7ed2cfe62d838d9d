"""Whole steps on the cuda target's kernels, interpreted on the CPU: ways that differ in which kernel does what agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.plugins.test_linear_kernels import make_weight
from tests.ptx.launch import Setting, interpreted
from torch import Tensor

from ingot.network.config import ModelConfig
from ingot.network.decoder import decoder
from ingot.network.ops import Batch, Ops
from ingot.network.weights import Scheme, Weight
from ingot.plugins import cuda_ops
from ingot.plugins.cuda_ops import CudaOps
from ingot.plugins.linear.launch import Choices, Skinny
from ingot.plugins.variants import Variants

BF16, CPU, PAGE, TOKENS = torch.bfloat16, torch.device("cpu"), 16, 24
CONFIG = ModelConfig(
    family="llama", vocab_size=64, hidden_size=128, intermediate_size=128, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=64,
    max_position=64, rms_norm_eps=1e-5, rope_theta=10_000.0, windows=(0,),
)  # fmt: skip


def make_weights(scheme: Scheme) -> dict[str, Weight[Tensor]]:
    linears = {"qkv": (256, 128), "o": (128, 128), "gate_up": (256, 128), "down": (128, 128)}
    found = {f"layers.0.{kind}": make_weight(scheme, n, k, BF16, CPU, bias=False) for kind, (n, k) in linears.items()}
    for name in ("layers.0.input_norm", "layers.0.post_norm", "final_norm"):
        found[name] = Weight(scheme=Scheme.NONE, data=torch.rand(128).bfloat16() + 0.5)
    for name in ("embed", "lm_head"):
        found[name] = make_weight(Scheme.NONE, 64, 128, BF16, CPU, bias=False)
    return found


def step(weights: dict[str, Weight[Tensor]], variants: Variants) -> Tensor:
    """Logits of every token of one prompt."""
    caches = [torch.full((2, 2, 1, PAGE, 64), torch.nan).bfloat16()]
    head = {("none", 64, 128, 32): Skinny()}  # PyTorch's own has no float32 output on a CPU
    ops: Ops[Any] = CudaOps(CONFIG, weights, caches, dtype=BF16, choices=Choices(tuned=head, variants=variants))
    positions = torch.arange(TOKENS, dtype=torch.int32)
    batch = Batch(
        token_ids=torch.arange(TOKENS) * 7 % 64, positions=positions, slots=positions, page_table=torch.tensor([[0, 1]], dtype=torch.int32),
        query_starts=torch.tensor([0, TOKENS], dtype=torch.int32), kv_lengths=torch.tensor([TOKENS], dtype=torch.int32),
        logit_rows=positions,
    )  # fmt: skip
    logits: Tensor = decoder(ops, CONFIG, batch)
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
