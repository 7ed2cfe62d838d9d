"""Launches the fused residual add, RMS norm and rounding."""

from __future__ import annotations

import triton
from torch import Tensor

from ingot.network.weights import Weight
from ingot.plugins.overlap import overlap
from ingot.plugins.packed import launch
from ingot.plugins.quantize.launch import Quantized, ending, warps_for
from ingot.plugins.rms_norm import kernels


def rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, reader: Weight[Tensor] | None
) -> Tensor | Quantized:
    """norm(x + residual) as `reader`, the linear that comes next, wants it. Adds x to `residual` in place."""
    num_rows, width = x.shape
    end, block = ending(reader, num_rows, width, x), triton.next_power_of_2(width)
    launch(kernels.add_rms_norm_kernel, (num_rows,), 
        x, x if residual is None else residual, weight, eps=eps, width=width, ADD=residual is not None, BLOCK=block,
        num_warps=warps_for(block), overlap=overlap(num_rows), **end.args,
    )  # fmt: skip
    return end.result
