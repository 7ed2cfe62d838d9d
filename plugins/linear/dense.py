"""The linear layer for machines without low-precision products: weights widened once, inputs rounded as the scheme says.

Same numbers as the reference up to the compute dtype's rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ingot.network.weights import Scheme, Weight
from ingot.plugins.linear.reference import dequantize
from ingot.plugins.quantize.e4m3 import e4m3_to_float
from ingot.plugins.quantize.reference import FP8_MAX, INT8_MAX, quantize_fp8, row_scale


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLinear:
    """A weight ready for `dense_linear`: (N, K) and bias in the compute dtype."""

    scheme: Scheme
    weight: Tensor
    bias: Tensor | None
    pre_scale: Tensor | None  # float32 (K,)
    input_scale: Tensor | None  # float32 ()


def densify(weight: Weight[Tensor], dtype: torch.dtype) -> DenseLinear:
    """Copies nothing that is already unquantized and of that dtype."""
    return DenseLinear(
        scheme=weight.scheme,
        weight=(weight.data if weight.scheme is Scheme.NONE else dequantize(weight)).to(dtype),
        bias=None if weight.bias is None else weight.bias.to(dtype),
        pre_scale=None if weight.pre_scale is None else weight.pre_scale.float(),
        input_scale=None if weight.input_scale is None else weight.input_scale.float().reshape(()),
    )


def dense_linear(x: Tensor, dense: DenseLinear) -> Tensor:
    """(T, K) -> (T, N) in x's dtype."""
    inputs = x if dense.pre_scale is None else x * dense.pre_scale
    if dense.scheme in (Scheme.FP8, Scheme.INT8):
        inputs = round_through(inputs.float(), dense.scheme, dense.input_scale)
    return functional.linear(inputs.to(x.dtype), dense.weight, dense.bias)


def round_through(x: Tensor, scheme: Scheme, input_scale: Tensor | None) -> Tensor:
    """`round_input` of the reference in few passes: float32 (T, K) -> float32 (T, K)."""
    largest = FP8_MAX if scheme is Scheme.FP8 else INT8_MAX
    scale = row_scale(x, largest).unsqueeze(-1) if input_scale is None else input_scale
    if scheme is Scheme.FP8:
        return e4m3_to_float(quantize_fp8(x, scale)).mul_(scale)
    return (x / scale).round_().clamp_(-128, 127).mul_(scale)
