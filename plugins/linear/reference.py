"""The linear layer by its weight's scheme, everything dequantized to float32: slow and true."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ingot.network.weights import Scheme, Weight
from ingot.plugins.quantize.reference import (
    FP8_MAX,
    INT8_MAX,
    dequantize_int4,
    dequantize_nvfp4,
    quantize_fp8,
    quantize_int8,
    row_scale,
)


def linear(x: Tensor, weight: Weight[Tensor]) -> Tensor:
    """(T, K) -> (T, N) in x's dtype. NVFP4 is weight-only here, as on hardware without FP4 products."""
    inputs = x.float()
    if weight.pre_scale is not None:
        inputs = inputs * weight.pre_scale.float()
    inputs = round_input(inputs, weight.scheme, weight.input_scale)
    bias = None if weight.bias is None else weight.bias.float()
    return functional.linear(inputs, dequantize(weight), bias).to(x.dtype)


def round_input(x: Tensor, scheme: Scheme, input_scale: Tensor | None) -> Tensor:
    """What remains of float32 x (T, K) when the scheme has quantized it, statically or per token."""
    if scheme is Scheme.FP8:
        scale = row_scale(x, FP8_MAX).unsqueeze(-1) if input_scale is None else input_scale
        return quantize_fp8(x, scale).float() * scale
    if scheme is Scheme.INT8:
        scale = row_scale(x, INT8_MAX).unsqueeze(-1) if input_scale is None else input_scale
        return quantize_int8(x, scale).float() * scale
    return x


def dequantize(weight: Weight[Tensor]) -> Tensor:
    """The weight's values, float32 (N, K)."""
    if weight.scheme is Scheme.NONE:
        return weight.data.float()
    scale = present(weight.weight_scale)
    match weight.scheme:
        case Scheme.FP8 | Scheme.INT8:
            return weight.data.float() * scale.float().unsqueeze(-1)
        case Scheme.INT4:
            return dequantize_int4(weight.data, scale)
        case Scheme.NVFP4:
            return dequantize_nvfp4(weight.data, scale, present(weight.weight_scale_2))


def present(scale: Tensor | None) -> Tensor:
    if scale is None:
        raise ValueError("a quantized weight lacks its scale")
    return scale
