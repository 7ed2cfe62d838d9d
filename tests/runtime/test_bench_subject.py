"""What a benchmark says that it measured: static FP8 scales against dynamic ones, of random weights and of engines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.fakes import FakeProgram

from ingot.builder import recipe
from ingot.manifest import Limits
from ingot.network.config import ModelConfig
from ingot.network.weights import LINEARS, Scheme
from ingot.plugins.load import PARTS, read_weights
from ingot.plugins.random_weights import FP8_INPUT_SCALES, LARGEST_INPUTS, quantized_weights
from ingot.runtime.bench.ceilings import Ceilings
from ingot.runtime.bench.commands import QUANTS
from ingot.runtime.bench.subject import Subject, stored_quant

SMALL = ModelConfig(
    family="llama", vocab_size=64, hidden_size=128, intermediate_size=128, num_layers=2, num_heads=4, num_kv_heads=1,
    head_dim=32, max_position=512, rms_norm_eps=1e-5, rope_theta=1e4, windows=(0,) * 2,
)  # fmt: skip
CPU = torch.device("cpu")
FP8 = torch.float8_e4m3fn


def subject(quant: str, kv: torch.dtype) -> Subject:
    return Subject(
        program=FakeProgram(num_pages=64, page_size=4, max_num_seqs=4, vocab_size=64), config=SMALL, quant=quant, kv_dtype=kv,
        limits=Limits(max_model_len=64, max_num_seqs=4, max_num_batched_tokens=32, page_size=4), dtype=torch.bfloat16,
        device=CPU, ceilings=Ceilings(copy=1e4, gemm={"bf16": 1e5, "fp8": 2e5}), load_seconds=0.0,
    )  # fmt: skip


def test_random_weights_come_as_a_build_has_them() -> None:
    assert QUANTS == recipe.QUANTS


@pytest.mark.parametrize(
    ("quant", "kv", "mode"),
    [
        ("none", torch.bfloat16, "bf16"), ("none", FP8, "bf16kv"), ("int4", torch.bfloat16, "int4"), ("fp8", torch.bfloat16, "fp8"),
        ("fp8", FP8, "fp8kv"), ("fp8-dynamic", torch.bfloat16, "fp8-dynamic"), ("fp8-dynamic", FP8, "fp8kv-dynamic"),
    ],
)  # fmt: skip
def test_a_mode_tells_static_scales_from_dynamic_ones(quant: str, kv: torch.dtype, mode: str) -> None:
    assert subject(quant, kv).mode == mode
    assert subject(quant, kv).scheme.value == quant.removesuffix("-dynamic")


@pytest.mark.parametrize("quant", QUANTS)
def test_an_engines_quant_is_read_from_its_weights(quant: str, tmp_path: Path) -> None:
    weights = quantized_weights(SMALL, quant, torch.bfloat16, CPU)
    tensors = {f"{name}.weight": weight.data for name, weight in weights.items()}
    for name, weight in weights.items():
        parts = {part: getattr(weight, part) for part in PARTS}
        tensors |= {f"{name}.{part}": tensor for part, tensor in parts.items() if tensor is not None}
    read_weights(tensors, SMALL)
    (tmp_path / "weights").mkdir()
    save_file(tensors, tmp_path / "weights" / "one.safetensors")
    assert stored_quant(tmp_path) == quant


def test_static_scales_are_of_every_linear_and_of_fp8_alone() -> None:
    static = quantized_weights(SMALL, "fp8", torch.bfloat16, CPU)
    for layer in range(SMALL.num_layers):
        for kind in LINEARS:
            scale = static[f"layers.{layer}.{kind}"].input_scale
            assert scale is not None
            assert (scale.dtype, scale.shape, float(scale)) == (
                torch.float32,
                (),
                pytest.approx(FP8_INPUT_SCALES[kind]),
            )
    assert static["lm_head"].scheme is Scheme.NONE
    for quant in set(QUANTS) - {"fp8"}:
        weights = quantized_weights(SMALL, quant, torch.bfloat16, CPU)
        assert all(weight.input_scale is None for weight in weights.values()), quant


def test_static_scales_hold_what_the_linears_are_given() -> None:
    """A sixteenth of a calibration's values or less has none beyond them, and reaches half of them."""
    torch.manual_seed(0)
    normal, gate, up = torch.randn(4096, 4096), torch.randn(4096, 3584), torch.randn(4096, 3584)
    product = torch.nn.functional.silu(gate) * up
    assert 0.5 < float(normal.abs().max()) / LARGEST_INPUTS["qkv"] < 1
    assert 0.5 < float(product.abs().max()) / LARGEST_INPUTS["down"] < 1
