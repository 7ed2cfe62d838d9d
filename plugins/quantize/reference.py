"""Quantization in plain PyTorch: the numbers every kernel and every builder stage must agree with.

Scales are float32 and multiply: value = data * scale. Rounding is to nearest, ties to even; what is too large saturates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ingot.network.weights import INT4_GROUP, NVFP4_GROUP

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
INT8_MAX = 127.0
INT4_MAX = 7.0
E2M1_MAX = 6.0
E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# Midpoints between neighbours. A tie goes to the even code: where the upper one is even, the border lies just below.
E2M1_BORDERS = (0.25, 0.75 - 2**-24, 1.25, 1.75 - 2**-23, 2.5, 3.5 - 2**-22, 5.0)


def scale_of(amax: Tensor, largest: float) -> Tensor:
    """The scale that brings amax to the format's largest number; 1 where all is zero."""
    amax = amax.float()
    return torch.where(amax > 0, (amax / largest).clamp_min(torch.finfo(torch.float32).tiny), torch.ones_like(amax))


def tensor_scale(x: Tensor, largest: float) -> Tensor:
    """One scale () for the whole tensor."""
    return scale_of(x.abs().amax(), largest)


def row_scale(x: Tensor, largest: float) -> Tensor:
    """One scale per row, (N,) for (N, K): a weight's output channels, or an activation's tokens."""
    return scale_of(x.abs().amax(-1), largest)


def quantize_fp8(x: Tensor, scale: Tensor) -> Tensor:
    """e4m3 of x / scale; `scale` broadcasts against x."""
    return (x.float() / scale).clamp(-FP8_MAX, FP8_MAX).to(FP8)


def quantize_int8(x: Tensor, scale: Tensor) -> Tensor:
    """int8 of x / scale, saturating to -128 .. 127; `scale` broadcasts against x."""
    return (x.float() / scale).round().clamp(-128, 127).to(torch.int8)


def pack_nibbles(codes: Tensor) -> Tensor:
    """(N, K) integers -> uint8 (N, K/2): the low nibble is the even k."""
    codes = codes.to(torch.uint8) & 15
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """uint8 (N, K/2) -> uint8 (N, K), values 0 .. 15."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)


def quantize_int4(weight: Tensor, group: int = INT4_GROUP) -> tuple[Tensor, Tensor]:
    """(N, K) -> packed uint8 (N, K/2) and scales (N, K/group): two's complement, -8 .. 7."""
    groups = weight.float().unflatten(-1, (-1, group))
    scale = row_scale(groups, INT4_MAX)
    codes = (groups / scale.unsqueeze(-1)).round().clamp(-8, 7).to(torch.int8)
    return pack_nibbles(codes.flatten(-2)), scale


def dequantize_int4(packed: Tensor, scale: Tensor) -> Tensor:
    """float32 (N, K). The group is what the scales' shape says."""
    codes = unpack_nibbles(packed).to(torch.int8)
    signed = torch.where(codes > 7, codes - 16, codes).float()
    groups: Tensor = signed.unflatten(-1, (scale.shape[-1], -1))
    return (groups * scale.float().unsqueeze(-1)).flatten(-2)


def e2m1_codes(x: Tensor) -> Tensor:
    """Nearest e2m1 code of each float32, sign in bit 3; uint8."""
    borders = torch.tensor(E2M1_BORDERS, device=x.device)
    return (torch.bucketize(x.abs(), borders) + 8 * torch.signbit(x)).to(torch.uint8)


def e2m1_values(codes: Tensor) -> Tensor:
    """float32 of e2m1 codes 0 .. 15."""
    magnitudes = torch.tensor(E2M1_VALUES, device=codes.device)
    return torch.cat((magnitudes, -magnitudes))[codes.int()]


def quantize_nvfp4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, K) -> packed uint8 (N, K/2), block scales e4m3 (N, K/16), float32 scale per row (N,), here one value for all."""
    scale_2 = tensor_scale(weight, E2M1_MAX * FP8_MAX)
    blocks = weight.float().unflatten(-1, (-1, NVFP4_GROUP))
    block_scale = quantize_fp8(blocks.abs().amax(-1) / E2M1_MAX, scale_2)
    step = (block_scale.float() * scale_2).unsqueeze(-1)
    codes = e2m1_codes(torch.where(step > 0, blocks / step, torch.zeros_like(blocks)))
    return pack_nibbles(codes.flatten(-2)), block_scale, scale_2.expand(weight.shape[0]).contiguous()


def dequantize_nvfp4(packed: Tensor, block_scale: Tensor, scale_2: Tensor) -> Tensor:
    """float32 (N, K)."""
    blocks: Tensor = e2m1_values(unpack_nibbles(packed)).unflatten(-1, (-1, NVFP4_GROUP))
    return (blocks * (block_scale.float() * scale_2.float().unsqueeze(-1)).unsqueeze(-1)).flatten(-2)
