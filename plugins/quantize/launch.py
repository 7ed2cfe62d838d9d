"""Launches the rounding of activations and says what a rounded activation is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from ingot.network.weights import Scheme, Weight
from ingot.plugins.overlap import overlap
from ingot.plugins.packed import launch
from ingot.plugins.quantize import kernels

ROUNDED = {Scheme.FP8: torch.float8_e4m3fn, Scheme.INT8: torch.int8}
MODES = {Scheme.FP8: 1, Scheme.INT8: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """Rows ready for a quantized GEMM: value = values * scales[:, None]."""

    values: Tensor  # (T, K) e4m3 or int8
    scales: Tensor  # (T,) float32

    def rows(self, which: Tensor) -> Quantized:
        """Those that `which` (R,) lists. As bytes, since not every PyTorch gathers e4m3."""
        values = self.values.view(torch.uint8)[which].view(self.values.dtype)
        return Quantized(values=values, scales=self.scales[which])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a kernel of one row a program ends for the linear that reads it: see kernels.store_row."""

    out: Tensor
    out_scale: Tensor
    args: dict[str, Any]

    @property
    def result(self) -> Tensor | Quantized:
        return Quantized(values=self.out, scales=self.out_scale) if self.args["MODE"] else self.out


def ending(weight: Weight[Tensor] | None, num_rows: int, width: int, like: Tensor) -> Ending:
    """Allocates what the reader `weight` wants its input in: rounded where its scheme rounds, else like's dtype."""
    mode = 0 if weight is None else MODES.get(weight.scheme, 0)
    dtype = like.dtype if weight is None or not mode else ROUNDED[weight.scheme]
    out = torch.empty(num_rows, width, dtype=dtype, device=like.device)
    out_scale = torch.empty(num_rows if mode else 0, dtype=torch.float32, device=like.device)
    pre, static = (None, None) if weight is None else (weight.pre_scale, weight.input_scale)
    args = {"pre_scale": like if pre is None else pre, "input_scale": like if static is None else static, "out": out,
            "out_scale": out_scale, "PRE": pre is not None, "MODE": mode, "STATIC": static is not None}  # fmt: skip
    return Ending(out=out, out_scale=out_scale, args=args)


def floats(x: Tensor | Quantized) -> Tensor:
    """What a GEMM's input stands for, in float32."""
    return x.values.float() * x.scales.unsqueeze(1) if isinstance(x, Quantized) else x.float()


def needs_ending(weight: Weight[Tensor]) -> bool:
    """Whether `weight`'s GEMM reads its input rounded or scaled."""
    return weight.scheme in MODES or weight.pre_scale is not None


def by_one_scale(weight: Weight[Tensor]) -> bool:
    """Whether `weight`'s GEMM reads e4m3 by a scale known beforehand, so that any kernel can store its input so, row or no row."""
    return weight.scheme is Scheme.FP8 and weight.input_scale is not None and weight.pre_scale is None


def ended(x: Tensor | Quantized, weight: Weight[Tensor]) -> Tensor | Quantized:
    """x (T, K) as `weight`'s GEMM reads it: by a kernel of its own where it is neither rounded already nor read as it is."""
    return quantize_rows(x, weight) if isinstance(x, Tensor) and needs_ending(weight) else x


def quantize_rows(x: Tensor, weight: Weight[Tensor]) -> Tensor | Quantized:
    """(T, K) float -> what `weight`'s GEMM reads."""
    end = ending(weight, x.shape[0], x.shape[1], x)
    grid, block = (x.shape[0],), triton.next_power_of_2(x.shape[1])
    launch(
        kernels.quantize_kernel,
        grid,
        x,
        width=x.shape[1],
        BLOCK=block,
        num_warps=warps_for(block),
        overlap=overlap(x.shape[0]),
        **end.args,
    )
    return end.result


def warps_for(block: int) -> int:
    """Warps of a program that holds one row of `block` values in registers: 16 values a thread, at most 32 warps."""
    return min(max(block // 512, 1), 32)
