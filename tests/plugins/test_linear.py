"""The linear layer of every scheme: the fast form against the true one, and the true one against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ingot.network.weights import Scheme, Weight
from ingot.plugins.linear.dense import dense_linear, densify
from ingot.plugins.linear.reference import dequantize, linear
from ingot.plugins.quantize import reference as quantize

N, K, T = 48, 256, 9


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(scheme: Scheme, *, static: bool, extras: bool, dtype: torch.dtype = torch.float32) -> Weight[Tensor]:
    data, parts = 0.05 * random(N, K, seed=1), {}
    if extras:
        parts = {"bias": random(N, seed=2).to(dtype), "pre_scale": (0.5 + random(K, seed=3).abs()).to(dtype)}
    if static:
        parts["input_scale"] = torch.tensor(0.08)
    match scheme:
        case Scheme.FP8:
            scale = quantize.row_scale(data, quantize.FP8_MAX)
            return Weight(
                scheme=scheme, data=quantize.quantize_fp8(data, scale.unsqueeze(1)), weight_scale=scale, **parts
            )
        case Scheme.INT8:
            scale = quantize.row_scale(data, quantize.INT8_MAX)
            return Weight(
                scheme=scheme, data=quantize.quantize_int8(data, scale.unsqueeze(1)), weight_scale=scale, **parts
            )
        case Scheme.INT4:
            packed, scale = quantize.quantize_int4(data)
            return Weight(scheme=scheme, data=packed, weight_scale=scale, **parts)
        case Scheme.NVFP4:
            packed, scale, scale_2 = quantize.quantize_nvfp4(data)
            return Weight(scheme=scheme, data=packed, weight_scale=scale, weight_scale_2=scale_2, **parts)
    return Weight(scheme=scheme, data=data.to(dtype), **parts)


CASES = [
    (scheme, static, extras)
    for scheme in Scheme
    for static in ((False, True) if scheme in (Scheme.FP8, Scheme.INT8) else (False,))
    for extras in (False, True)
]


@pytest.mark.parametrize(("scheme", "static", "extras"), CASES)
def test_dense_equals_the_reference_in_float32(scheme: Scheme, static: bool, extras: bool) -> None:
    weight, x = make(scheme, static=static, extras=extras), random(T, K, seed=4)
    truth = linear(x.double().float(), weight)
    found = dense_linear(x, densify(weight, torch.float32))
    assert found.shape == (T, N)
    assert (found - truth).norm() <= 1e-6 * truth.norm()


@pytest.mark.parametrize(("scheme", "static", "extras"), CASES)
def test_dense_in_bfloat16_is_as_exact_as_a_bfloat16_product(scheme: Scheme, static: bool, extras: bool) -> None:
    weight = make(scheme, static=static, extras=extras, dtype=torch.bfloat16)
    x = random(T, K, seed=4).bfloat16()
    truth = linear(x.float(), weight)
    plain = linear(x.float(), make(Scheme.NONE, static=False, extras=extras))
    rounded = torch.nn.functional.linear(x, make(Scheme.NONE, static=False, extras=extras, dtype=torch.bfloat16).data)
    unbiased = x.float() @ make(Scheme.NONE, static=False, extras=False).data.T
    bound = (rounded.float() - unbiased).norm() / unbiased.norm()
    found = dense_linear(x, densify(weight, torch.bfloat16)).float()
    # pre_scale and the input's rounding each add a bfloat16 rounding to those of the product.
    assert (found - truth).norm() / truth.norm() <= 3 * bound
    assert scheme is Scheme.NONE or (truth - plain).norm() < 0.2 * plain.norm()


def test_the_input_is_rounded_as_the_scheme_says() -> None:
    eye = torch.eye(4)
    x = torch.tensor([[0.3, 1.0, -7.0, 100.0], [0.01, -0.02, 0.005, 0.0]])
    int8 = Weight(scheme=Scheme.INT8, data=eye.to(torch.int8), weight_scale=torch.ones(4))
    step = x.abs().amax(-1, keepdim=True) / 127
    assert torch.allclose(linear(x, int8), (x / step).round() * step)
    static = Weight(
        scheme=Scheme.INT8, data=eye.to(torch.int8), weight_scale=torch.ones(4), input_scale=torch.tensor(0.5)
    )
    assert linear(x, static).tolist() == [[0.5, 1.0, -7.0, 63.5], [0, 0, 0, 0]]
    fp8 = Weight(
        scheme=Scheme.FP8, data=eye.to(quantize.FP8), weight_scale=torch.ones(4), input_scale=torch.tensor(1.0)
    )
    assert linear(x, fp8).tolist()[0] == [0.3125, 1.0, -7.0, 96.0]
    weight_only = make(Scheme.INT4, static=False, extras=False)
    wide = random(T, K, seed=5)
    assert torch.equal(linear(wide, weight_only), wide @ dequantize(weight_only).T)


def test_pre_scale_multiplies_the_input_and_bias_is_added_last() -> None:
    weight = make(Scheme.NONE, static=False, extras=True)
    x = random(T, K, seed=6)
    assert weight.bias is not None
    assert weight.pre_scale is not None
    assert torch.allclose(linear(x, weight), (x * weight.pre_scale) @ weight.data.T + weight.bias, atol=1e-5)


def test_unquantized_weights_are_not_copied() -> None:
    weight = make(Scheme.NONE, static=False, extras=False)
    assert densify(weight, torch.float32).weight is weight.data
