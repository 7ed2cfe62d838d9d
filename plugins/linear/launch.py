"""Runs a linear by its weight's scheme and row count: cuBLASLt, the skinny CUDA kernels, or a Triton GEMM.

Weights stay as the engine stores them, (N, K) row-major: every path reads that layout.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeGuard

import torch
import triton
from torch import Tensor
from torch.nn import functional

from ingot.network.weights import INT4_GROUP, Scheme, Weight
from ingot.plugins.cubin import Argument, kernel
from ingot.plugins.linear import kernels
from ingot.plugins.overlap import linear_overlap
from ingot.plugins.packed import launch
from ingot.plugins.quantize.launch import Quantized, by_one_scale, ending, needs_ending
from ingot.plugins.variants import Variants

SOURCE = Path(__file__).with_name("skinny.cu")
INT4_SOURCE = Path(__file__).with_name("skinny_int4.cu")
KINDS = {torch.bfloat16: 0, torch.float8_e4m3fn: 1, torch.int8: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """cuBLASLt through torch. Not for int8 and int4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skinny:
    """skinny.cu and skinny_int4.cu, for at most 64 rows of x: `rows` 16-row weight tiles a warp, `warps` a block, of which
    `tiles` side by side (not for int4) and warps / tiles share out K."""

    rows: int = 1
    warps: int = 8
    x_ahead: bool = True
    tiles: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiled:
    """A Triton GEMM with this tile; bk is fixed to the group for int4."""

    bm: int = 128
    bn: int = 128
    bk: int = 64
    group: int = 8
    warps: int = 8
    stages: int = 3


Choice = Library | Skinny | Tiled
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


def bucket_of(num_rows: int) -> int:
    return next((size for size in BUCKETS if num_rows <= size), BUCKETS[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the tuner found fastest: linears by scheme, (N, K) and row bucket, a sound guess where it found nothing; and the
    other kernels' variants."""

    tuned: Mapping[tuple[str, int, int, int], Choice]
    variants: Variants = field(default_factory=Variants)

    def pick(self, scheme: Scheme, n: int, k: int, num_rows: int) -> Choice:
        bucket = bucket_of(num_rows)
        return self.tuned.get((scheme.value, n, k, bucket)) or guess(scheme, n, k, bucket)


def guess(scheme: Scheme, n: int, k: int, bucket: int) -> Choice:
    if scheme is Scheme.INT4 and bucket <= 64:
        return Skinny(rows=2 if n >= 16_384 else 1)
    if scheme is Scheme.INT4:
        bm = min(max(bucket, 16), 64)
        return Tiled(bm=bm, bn=64 if bucket <= 64 else 128, bk=INT4_GROUP, warps=4, stages=4)
    if bucket <= 16 and skinny_fits(scheme, k):
        return guess_skinny(scheme, n, k, bucket)
    if scheme is Scheme.INT8:
        return Tiled(bm=min(max(bucket, 16), 128), bn=128, bk=128, warps=8 if bucket > 64 else 4)
    return Library()


def guess_skinny(scheme: Scheme, n: int, k: int, bucket: int) -> Choice:
    """Measured on an H200 at Llama-3.1-8B's shapes."""
    if scheme is Scheme.NONE and n >= 16_384 and bucket > 1:
        return Library()
    if bucket <= 8:
        return Skinny(warps=16 if scheme is not Scheme.FP8 or k > 8192 else 8)
    return Skinny(warps=4 if scheme is Scheme.FP8 and n > 4096 else 8)


def skinny_fits(scheme: Scheme, k: int) -> bool:
    return scheme in (Scheme.NONE, Scheme.FP8, Scheme.INT8) and k * (2 if scheme is Scheme.NONE else 1) % 128 == 0


def run_linear(x: Tensor | Quantized, weight: Weight[Tensor], choice: Choice, *, out_dtype: torch.dtype) -> Tensor:
    """(T, K), rounded already where the scheme rounds -> (T, N) in out_dtype, bias added."""
    values, scales = (x.values, x.scales) if isinstance(x, Quantized) else (x, None)
    if isinstance(choice, Skinny) and weight.scheme is Scheme.INT4 and values.dtype == torch.bfloat16:
        return skinny_int4(values, weight, choice)
    if isinstance(choice, Skinny) and values.dtype in KINDS:
        return skinny(values, scales, weight, choice, out_dtype)
    if isinstance(choice, Tiled):
        return tiled(values, scales, weight, choice, out_dtype)
    return library(values, scales, weight, out_dtype)


def split_rows(weight: Weight[Tensor], first: int) -> tuple[Weight[Tensor], Weight[Tensor]]:
    """A linear of floats or FP8 as two: its `first` output columns, and the others."""

    def part(which: slice) -> Weight[Tensor]:
        scale, bias = weight.weight_scale, weight.bias
        return replace(
            weight,
            data=weight.data[which],
            weight_scale=None if scale is None else scale[which],
            bias=None if bias is None else bias[which],
        )

    return part(slice(None, first)), part(slice(first, None))


def library(x: Tensor, scales: Tensor | None, weight: Weight[Tensor], out_dtype: torch.dtype) -> Tensor:
    if weight.scheme is Scheme.FP8:
        assert scales is not None
        assert weight.weight_scale is not None
        return torch._scaled_mm(
            x, weight.data.t(), scale_a=scales.unsqueeze(1), scale_b=weight.weight_scale.unsqueeze(0), bias=weight.bias,
            out_dtype=out_dtype, use_fast_accum=True,
        )  # fmt: skip
    if out_dtype != x.dtype:
        return torch.mm(x, weight.data.t(), out_dtype=out_dtype)
    return functional.linear(x, weight.data, weight.bias)


def skinny(x: Tensor, scales: Tensor | None, weight: Weight[Tensor], choice: Skinny, out_dtype: torch.dtype) -> Tensor:
    out = torch.empty(x.shape[0], weight.data.shape[0], dtype=out_dtype, device=x.device)
    launch_skinny(out, x, scales, weight, choice, {"GATED": 0, "ROUNDS": 0}, [None, None])
    return out


def ends_with_silu(
    choice: Choice, weight: Weight[Tensor], reader: Weight[Tensor], dtype: torch.dtype
) -> TypeGuard[Skinny]:
    """Whether `choice` for this gate and up, stacked, is skinny_gated: where `reader`, the linear that comes next, reads what each of a
    row's columns yields by itself."""
    fits = skinny_fits(weight.scheme, weight.data.shape[1]) and weight.bias is None
    return (
        isinstance(choice, Skinny)
        and fits
        and dtype == torch.bfloat16
        and (by_one_scale(reader) or not needs_ending(reader))
    )


def skinny_gated(
    x: Tensor | Quantized, weight: Weight[Tensor], reader: Weight[Tensor], choice: Skinny
) -> Tensor | Quantized:
    """x (T, K), rounded already where the scheme rounds, and `weight` (2F, K), gate's rows before up's -> silu(gate) * up (T, F) as
    `reader` wants it; see ends_with_silu."""
    values, scales = (x.values, x.scales) if isinstance(x, Quantized) else (x, None)
    num_rows, width = values.shape[0], weight.data.shape[0] // 2
    end = ending(reader, num_rows, width, values.new_empty(0, dtype=torch.bfloat16))
    ends = {"GATED": 1, "ROUNDS": int(by_one_scale(reader))}
    launch_skinny(end.out, values, scales, weight, choice, ends, [end.out_scale, reader.input_scale])
    return end.result


def launch_skinny(
    out: Tensor, x: Tensor, scales: Tensor | None, weight: Weight[Tensor], choice: Skinny, ends: dict[str, int],
    rounding: list[Argument],
) -> None:  # fmt: skip
    """`ends`: the defines of the kernel's end; `rounding`: where a scale goes, and the scale."""
    num_rows, n = out.shape
    cols = next(size for size in (1, 2, 4, 8) if num_rows <= 8 * size)
    defines = {"KIND": KINDS[x.dtype], "ROWS": choice.rows, "COLS": cols, "WARPS": choice.warps, "X_AHEAD": int(choice.x_ahead),
               "TILES": choice.tiles, "OUT_F32": int(out.dtype == torch.float32), **ends}  # fmt: skip
    kernel(SOURCE, "skinny", defines).launch(
        (triton.cdiv(weight.data.shape[0], 16 * choice.rows * choice.tiles), 1, 1), 32 * choice.warps,
        [out, x, weight.data, scales, weight.weight_scale, weight.bias, ctypes.c_int(num_rows), ctypes.c_int(n),
         ctypes.c_int(x.shape[1] * x.element_size()), *rounding],
        overlap=linear_overlap(num_rows) > 0,
    )  # fmt: skip


def skinny_int4(x: Tensor, weight: Weight[Tensor], choice: Skinny) -> Tensor:
    (num_rows, k), n = x.shape, weight.data.shape[0]
    out = torch.empty(num_rows, n, dtype=x.dtype, device=x.device)
    cols = next(size for size in (1, 2, 4, 8) if num_rows <= 8 * size)
    defines = {"ROWS": choice.rows, "COLS": cols, "WARPS": choice.warps}
    kernel(INT4_SOURCE, "skinny_int4", defines).launch(
        (triton.cdiv(n, 16 * choice.rows), 1, 1), 32 * choice.warps,
        [out, x, weight.data, weight.weight_scale, weight.bias, ctypes.c_int(num_rows), ctypes.c_int(n), ctypes.c_int(k)],
        overlap=linear_overlap(num_rows) > 0,
    )  # fmt: skip
    return out


def tiled(x: Tensor, scales: Tensor | None, weight: Weight[Tensor], choice: Tiled, out_dtype: torch.dtype) -> Tensor:
    num_rows, n = x.shape[0], weight.data.shape[0]
    out = torch.empty(num_rows, n, dtype=out_dtype, device=x.device)
    grid = (triton.cdiv(num_rows, choice.bm) * triton.cdiv(n, choice.bn),)
    bias = x if weight.bias is None else weight.bias
    if weight.scheme is Scheme.INT4:
        launch(kernels.int4_gemm_kernel, grid, 
            x, weight.data, weight.weight_scale, bias, out, num_rows, n, x.shape[1], BIAS=weight.bias is not None, BM=choice.bm,
            BN=choice.bn, GROUP_K=INT4_GROUP, GROUP=choice.group, num_warps=choice.warps, num_stages=choice.stages, overlap=linear_overlap(num_rows),
        )  # fmt: skip
        return out
    launch(kernels.scaled_gemm_kernel, grid, 
        x, weight.data, scales, weight.weight_scale, bias, out, num_rows, n, x.shape[1], SCALED=scales is not None,
        BIAS=weight.bias is not None, BM=choice.bm, BN=choice.bn, BK=choice.bk, GROUP=choice.group, num_warps=choice.warps,
        num_stages=choice.stages, overlap=linear_overlap(num_rows),
    )  # fmt: skip
    return out
