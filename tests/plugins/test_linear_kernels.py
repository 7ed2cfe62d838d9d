"""GEMMs of every scheme against float32 products of the same rounded inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.exactness import assert_as_exact_as_torch
from tests.poison import poisoned
from torch import Tensor

from ingot.errors import EngineError
from ingot.network.weights import Scheme, Weight
from ingot.plugins.linear.gated import gated, well_filled
from ingot.plugins.linear.launch import (
    Choice,
    Choices,
    Library,
    Skinny,
    Tiled,
    ends_with_silu,
    run_linear,
    skinny_gated,
)
from ingot.plugins.linear.reference import dequantize
from ingot.plugins.linear.tune import candidates, read_choices, write_choices
from ingot.plugins.quantize.launch import Quantized, floats, quantize_rows
from ingot.plugins.quantize.reference import quantize_fp8, quantize_int4, quantize_int8, row_scale
from ingot.plugins.silu_mul.reference import silu_mul

DATA = torch.empty(8, 128)


def make_weight(
    scheme: Scheme, n: int, k: int, dtype: torch.dtype, device: torch.device, *, bias: bool
) -> Weight[Tensor]:
    x = torch.randn(n, k, device=device) / k**0.5
    b = torch.randn(n, device=device).to(dtype) if bias else None
    match scheme:
        case Scheme.FP8:
            scale = row_scale(x, 448.0)
            return Weight(scheme=scheme, data=quantize_fp8(x, scale[:, None]), weight_scale=scale, bias=b)
        case Scheme.INT8:
            scale = row_scale(x, 127.0)
            return Weight(scheme=scheme, data=quantize_int8(x, scale[:, None]), weight_scale=scale, bias=b)
        case Scheme.INT4:
            data, scale = quantize_int4(x)
            return Weight(scheme=scheme, data=data, weight_scale=scale, bias=b)
        case _:
            return Weight(scheme=Scheme.NONE, data=x.to(dtype), bias=b)


def check(
    scheme: Scheme, rows: int, n: int, k: int, choice: Choice, dtype: torch.dtype, device: torch.device, bias: bool
) -> None:
    weight = make_weight(scheme, n, k, dtype, device, bias=bias)
    x: Tensor | Quantized = torch.randn(rows, k, device=device).to(dtype)
    if scheme in (Scheme.FP8, Scheme.INT8):
        x = quantize_rows(x, weight)
    inputs = x.values.float() * x.scales[:, None] if isinstance(x, Quantized) else x.float()
    extra = 0 if weight.bias is None else weight.bias.double()
    truth = inputs.double() @ dequantize(replace(weight)).double().T + extra
    plain = inputs.to(dtype) @ dequantize(weight).to(dtype).T + (0 if weight.bias is None else weight.bias)
    out = run_linear(x, weight, choice, out_dtype=dtype)
    assert out.dtype == dtype
    assert_as_exact_as_torch(out, plain, truth)


def check_gated(
    scheme: Scheme, rows: int, n: int, k: int, device: torch.device, *, choice: Skinny | None = None, rounds: bool = False
) -> None:  # fmt: skip
    """By gated.cu or, with `choice`, skinny.cu: against SiLU of a product rounded to bf16, as PyTorch does it; with `rounds` against the
    true value rounded once to e4m3."""
    weight = make_weight(scheme, n, k, torch.bfloat16, device, bias=False)
    x: Tensor | Quantized = torch.randn(rows, k, device=device).bfloat16()
    if isinstance(x, Tensor) and scheme in (Scheme.FP8, Scheme.INT8):
        x = quantize_rows(x, weight)
    inputs = floats(x).double()
    truth = silu_mul(inputs @ dequantize(weight).double().T)
    scale = (truth.abs().amax() / 300).float()  # by which the largest is no number of e4m3
    reader = Weight(scheme=Scheme.NONE, data=weight.data)
    if rounds:
        reader = Weight(scheme=Scheme.FP8, data=weight.data, input_scale=scale.reshape(1))
    with poisoned():
        found = gated(x, weight, reader) if choice is None else skinny_gated(x, weight, reader, choice)
    if rounds:
        check_rounded(found, truth, scale, steps=1 if choice else None)
    else:
        plain = silu_mul(inputs.bfloat16() @ dequantize(weight).bfloat16().T)
        assert_as_exact_as_torch(floats(found), plain, truth)


def check_rounded(found: Tensor | Quantized, truth: Tensor, scale: Tensor, *, steps: int | None) -> None:
    """`steps`: of e4m3, that a value near a tie may lie beside the true one's, where a step is large beside the product's own error."""
    assert isinstance(found, Quantized)
    assert torch.equal(found.scales, scale.expand(len(truth)))
    plain = quantize_fp8(truth, scale)
    assert_as_exact_as_torch(floats(found), plain.float() * scale, truth)
    if steps is not None:
        away = (order_of(found.values) - order_of(plain)).abs()[truth.abs() >= scale]
        assert away.max() <= steps
        assert (away > 0).float().mean() < 0.1


def order_of(x: Tensor) -> Tensor:
    """e4m3 as integers, one apart where the values are neighbours."""
    bits = x.view(torch.uint8).int()
    return torch.where(bits < 128, bits, 128 - bits)


@pytest.mark.parametrize(("rows", "filled"), [(8192, True), (8000, True), (1024, True), (768, False), (1025, False)])
def test_a_gated_product_is_for_steps_that_fill_the_machine(
    rows: int, filled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Llama-3.1-8B's on 132 multiprocessors: 66 clusters, 112 columns of tiles."""
    monkeypatch.setattr("ingot.plugins.linear.gated.num_processors", lambda: 132)
    assert well_filled(rows, 28672) == filled


@pytest.mark.gpu
@pytest.mark.parametrize(("scheme", "rounds"), [(Scheme.NONE, False), (Scheme.FP8, False), (Scheme.FP8, True)])
@pytest.mark.parametrize(("rows", "n", "k"), [(1, 256, 128), (300, 768, 1152), (1024, 28672, 4096), (4999, 2048, 640)])
def test_gated(scheme: Scheme, rounds: bool, rows: int, n: int, k: int) -> None:
    check_gated(scheme, rows, n, k, torch.device("cuda"), rounds=rounds)


@pytest.mark.gpu
@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("scheme", [Scheme.NONE, Scheme.FP8, Scheme.INT8])
@pytest.mark.parametrize("choice", [Skinny(), Skinny(rows=2, warps=4, x_ahead=False), Skinny(warps=8, tiles=4)])
@pytest.mark.parametrize(("rows", "n", "k"), [(1, 28672, 4096), (5, 202, 1152), (16, 1040, 4096), (33, 100, 640)])
def test_skinny_that_ends_with_silu(scheme: Scheme, rounds: bool, choice: Skinny, rows: int, n: int, k: int) -> None:
    check_gated(scheme, rows, n, k, torch.device("cuda"), choice=choice, rounds=rounds)


@pytest.mark.parametrize(
    ("weight", "reader", "choice", "ends"),
    [
        (Weight(scheme=Scheme.NONE, data=DATA), Weight(scheme=Scheme.NONE, data=DATA), Skinny(), True),
        (Weight(scheme=Scheme.NONE, data=DATA), Weight(scheme=Scheme.INT4, data=DATA), Skinny(), True),
        (Weight(scheme=Scheme.INT8, data=DATA), Weight(scheme=Scheme.FP8, data=DATA, input_scale=DATA), Skinny(), True),
        (Weight(scheme=Scheme.FP8, data=DATA), Weight(scheme=Scheme.FP8, data=DATA), Skinny(), False),
        (Weight(scheme=Scheme.NONE, data=DATA), Weight(scheme=Scheme.NONE, data=DATA, pre_scale=DATA), Skinny(), False),
        (Weight(scheme=Scheme.INT4, data=DATA), Weight(scheme=Scheme.NONE, data=DATA), Skinny(), False),
        (Weight(scheme=Scheme.NONE, data=DATA, bias=DATA), Weight(scheme=Scheme.NONE, data=DATA), Skinny(), False),
        (Weight(scheme=Scheme.NONE, data=DATA), Weight(scheme=Scheme.NONE, data=DATA), Library(), False),
    ],
)
def test_which_products_of_few_rows_end_with_silu(
    weight: Weight[Tensor], reader: Weight[Tensor], choice: Choice, ends: bool
) -> None:
    assert ends_with_silu(choice, weight, reader, torch.bfloat16) == ends
    assert not ends_with_silu(choice, weight, reader, torch.float16)


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT4, Scheme.NONE])
@pytest.mark.parametrize(("rows", "n", "k", "bias"), [(3, 80, 256, True), (37, 33, 384, False)])
def test_tiled(device: torch.device, dtype: torch.dtype, scheme: Scheme, rows: int, n: int, k: int, bias: bool) -> None:
    check(scheme, rows, n, k, Tiled(bm=16, bn=32, bk=64, warps=4), dtype, device, bias)


@pytest.mark.gpu
@pytest.mark.parametrize("scheme", [Scheme.NONE, Scheme.FP8, Scheme.INT8, Scheme.INT4])
@pytest.mark.parametrize(
    "choice", [Skinny(rows=1, warps=8), Skinny(rows=2, warps=8, x_ahead=False), Skinny(warps=8, tiles=4)]
)
@pytest.mark.parametrize(
    ("rows", "n", "k", "bias"),
    [(1, 4096, 4096, False), (5, 1000, 1152, True), (16, 512, 14336, False), (33, 100, 640, True)],
)
def test_skinny(scheme: Scheme, choice: Skinny, rows: int, n: int, k: int, bias: bool) -> None:
    check(scheme, rows, n, k, choice, torch.bfloat16, torch.device("cuda"), bias)


@pytest.mark.gpu
@pytest.mark.parametrize("scheme", list(Scheme)[:4])
@pytest.mark.parametrize("rows", [1, 17, 64, 300, 2048])
def test_whatever_the_chooser_takes(scheme: Scheme, rows: int) -> None:
    choice = Choices(tuned={}).pick(scheme, 4096, 2048, rows)
    check(scheme, rows, 4096, 2048, choice, torch.bfloat16, torch.device("cuda"), scheme is not Scheme.INT4)


def test_a_tuned_choice_goes_before_the_guess() -> None:
    tuned = Choices(tuned={("fp8", 64, 128, 16): Tiled()})
    assert tuned.pick(Scheme.FP8, 64, 128, 9) == Tiled()
    assert tuned.pick(Scheme.FP8, 64, 128, 4) == Skinny()
    assert tuned.pick(Scheme.NONE, 64, 128, 400) == Library()


def test_choices_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "choices.json"
    choices = Choices(
        tuned={
            ("fp8", 64, 128, 16): Skinny(rows=2, warps=4, tiles=2),
            ("none", 64, 128, 256): Library(),
            ("int8", 64, 128, 32): Tiled(bm=64),
        }
    )
    write_choices(choices, path)
    assert read_choices(path) == choices
    path.write_text('[{"scheme": "fp8"}]')
    with pytest.raises(EngineError, match="kernel choices"):
        read_choices(path)


def test_candidates_fit_the_scheme() -> None:
    assert Library() not in candidates(Scheme.INT4, 4096, 4096, 16)
    assert all(isinstance(choice, Skinny) for choice in candidates(Scheme.INT4, 4096, 4096, 1))
    assert len(candidates(Scheme.FP8, 4096, 4096, 16)) > 5
    assert candidates(Scheme.NONE, 4096, 4096, 8192) == [Library()]
