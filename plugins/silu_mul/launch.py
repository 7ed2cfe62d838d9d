"""Launches silu(gate) * up, rounded for the linear that reads it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from ingot.network.weights import Weight
from ingot.plugins.overlap import overlap
from ingot.plugins.packed import launch
from ingot.plugins.quantize.launch import Quantized, ending, needs_ending, warps_for
from ingot.plugins.silu_mul import kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class SiluChoice:
    """`fast`: see kernels.silu. `warps`: of a program that rounds a row, where there are many rows; 0: as for few."""

    fast: bool = False
    warps: int = 0


USUAL = SiluChoice()
MANY = 512  # rows


def silu_mul(gate_up: Tensor, reader: Weight[Tensor] | None, choice: SiluChoice = SiluChoice()) -> Tensor | Quantized:
    """(T, 2F) -> (T, F) as `reader` wants it."""
    num_rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    if reader is None or not needs_ending(reader):
        out = torch.empty(num_rows, width, dtype=gate_up.dtype, device=gate_up.device)
        block = min(1024, triton.next_power_of_2(width))
        launch(
            kernels.silu_mul_kernel,
            (num_rows, triton.cdiv(width, block)),
            gate_up,
            out,
            width,
            FAST=choice.fast,
            BLOCK=block,
            num_warps=4,
            overlap=overlap(num_rows),
        )
        return out
    end, block = ending(reader, num_rows, width, gate_up), triton.next_power_of_2(width)
    launch(
        kernels.silu_mul_quantize_kernel,
        (num_rows,),
        gate_up,
        width=width,
        FAST=choice.fast,
        BLOCK=block,
        num_warps=choice.warps if choice.warps and num_rows >= MANY else warps_for(block),
        overlap=overlap(num_rows),
        **end.args,
    )
    return end.result
