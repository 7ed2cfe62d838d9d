"""Launches attention of prompts: the tiles of their tokens, and the Triton or the CUDA C++ kernel over them (prefill.cu)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from torch import Tensor

from ingot.plugins.attention import kernels
from ingot.plugins.attention.launch import Paged, Rotation, Rounding
from ingot.plugins.attention.tiles import prefill_rows
from ingot.plugins.cubin import Argument, kernel
from ingot.plugins.device import capability, num_processors
from ingot.plugins.overlap import overlap
from ingot.plugins.packed import launch

SOURCE = Path(__file__).with_name("prefill.cu")
SHARED = (4 * 128 + 2 * 128) * 128 * 2 + 1024  # bytes: four tiles of keys or values, two of queries, alignment


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Which query tokens each prefill program takes; the longest contexts first, so that none is left to the end. Tiles that
    start past their sequence's tokens do nothing, and come last."""

    seqs: Tensor  # (tiles,) int32
    starts: Tensor  # (tiles,) int32, within the sequence's slice


def device_tiles(query_starts: Tensor, num_tokens: int, tokens_per_tile: int, *, max_seqs: int) -> Tiles:
    """Tiles over every sequence of query_starts (S + 1,), planned on the GPU: the host never learns the counts."""
    num_seqs = query_starts.shape[0] - 1
    most = num_tokens // tokens_per_tile + num_seqs
    seqs, starts = torch.empty(2, most, dtype=torch.int32, device=query_starts.device)
    launch(
        kernels.tiles_kernel, (most,),
        query_starts, seqs, starts, num_seqs, TOKENS=tokens_per_tile, SEQS=triton.next_power_of_2(max_seqs), num_warps=4,
        overlap=overlap(most),
    )  # fmt: skip
    return Tiles(seqs=seqs, starts=starts)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillChoice:
    """A Triton prefill program's keys at a time, warps and pipeline stages; or prefill.cu, which has its own."""

    keys: int = 128
    warps: int = 8
    stages: int = 2
    cuda: bool = False


def choose_prefill(dim: int, kv_dtype: torch.dtype) -> PrefillChoice:
    """Measured on an H200 at head dim 128."""
    if dim > 128:
        return PrefillChoice(keys=32, warps=8, stages=2)
    if kv_dtype.itemsize == 1:
        return PrefillChoice(keys=64, warps=4, stages=3)
    return PrefillChoice(keys=128, warps=8, stages=2) if dim == 128 else PrefillChoice(keys=64, warps=4, stages=2)


def fits_cuda_prefill(num_heads: int, dtype: torch.dtype, cache: Tensor) -> bool:
    """Whether prefill.cu takes queries of `dtype` over `cache`: bf16, head dim 128, on a Hopper GPU."""
    kv_dtypes = (torch.bfloat16, torch.float8_e4m3fn)
    shapes = cache.shape[4] == 128 and num_heads // cache.shape[2] <= 64 and cache.shape[3] % 16 == 0
    return dtype == torch.bfloat16 and cache.dtype in kv_dtypes and shapes and capability() == (9, 0)


def by_prefill_cu(choice: PrefillChoice | None, num_heads: int, dtype: torch.dtype, cache: Tensor) -> bool:
    """Whether `choice` asks for prefill.cu, and it takes this."""
    return choice is not None and choice.cuda and fits_cuda_prefill(num_heads, dtype, cache)


def prefill(
    q: Tensor, paged: Paged, query_starts: Tensor, tiles: Tiles, out: Tensor, choice: PrefillChoice | None = None,
    rounding: Rounding | None = None,
) -> None:  # fmt: skip
    """q, out (T, H, D), ragged by query_starts (S + 1,); causal over the whole context, prefix included. With `rounding`, which
    prefill.cu alone can, out is e4m3."""
    if by_prefill_cu(choice, q.shape[1], q.dtype, paged.cache):
        cuda_prefill(q, paged, query_starts, tiles, out, rounding)
        return
    if rounding is not None:
        raise ValueError("prefill.cu alone stores e4m3, and does not take this; see step.can_round.")
    triton_prefill(q, paged, query_starts, tiles, out, choice)


def triton_prefill(
    q: Tensor, paged: Paged, query_starts: Tensor, tiles: Tiles, out: Tensor, choice: PrefillChoice | None
) -> None:
    _, num_heads, dim = q.shape
    num_kv_heads, page = paged.cache.shape[2:4]
    group = num_heads // num_kv_heads
    if choice is None or choice.cuda:  # nothing asked for, or what is not possible
        choice = choose_prefill(dim, paged.cache.dtype)
    launch(
        kernels.prefill_kernel, (tiles.seqs.shape[0], num_kv_heads),
        q, paged.cache, paged.page_table, paged.lengths if paged.rows is None else paged.rows, query_starts, paged.lengths, tiles.seqs,
        tiles.starts, out, paged.score_scale, paged.kv_scales[1], paged.cache.stride(0), paged.page_table.stride(0), num_kv_heads,
        WINDOW=paged.window, HAS_ROWS=paged.rows is not None, G=group, D=dim, DP=triton.next_power_of_2(dim), PAGE=page,
        BM=prefill_rows(group, dim), BN=choice.keys, num_warps=choice.warps, num_stages=choice.stages, overlap=overlap(q.shape[0]),
    )  # fmt: skip


def rotate_and_prefill(
    qkv: Tensor, rotation: Rotation, paged: Paged, query_starts: Tensor, tiles: Tiles, out: Tensor, rounding: Rounding | None = None,
) -> None:  # fmt: skip
    """`prefill`, by prefill.cu, of the queries of qkv (T, (H + 2K) * D), not rotated yet; the cache holds its keys and values."""
    more = [rotation.table, rotation.norms and rotation.norms[0], ctypes.c_float(rotation.eps)]
    cuda_prefill(qkv, paged, query_starts, tiles, out, rounding, more)


def cuda_prefill(
    q: Tensor,
    paged: Paged,
    query_starts: Tensor,
    tiles: Tiles,
    out: Tensor,
    rounding: Rounding | None = None,
    more: Sequence[Argument] = (),
) -> None:
    num_kv_heads, page = paged.cache.shape[2:4]
    defines = {
        "ROTATES": int(bool(more)),
        "ROUNDS": int(rounding is not None),
        "GROUP": out.shape[1] // num_kv_heads,
        "PAGE": page,
        "KV_FP8": int(paged.cache.dtype == torch.float8_e4m3fn),
    }
    items = tiles.seqs.shape[0] * num_kv_heads
    kernel(SOURCE, "paged_prefill", defines, shared=SHARED).launch(
        (min(items, num_processors()), 1, 1), 384,
        [out, q, paged.cache, paged.page_table, paged.rows, query_starts, paged.lengths, tiles.seqs, tiles.starts,
         ctypes.c_longlong(paged.cache.stride(0) * paged.cache.element_size()), ctypes.c_int(paged.page_table.stride(0)),
         ctypes.c_int(num_kv_heads), ctypes.c_int(items), ctypes.c_int(paged.window), ctypes.c_float(paged.score_scale),
         ctypes.c_float(paged.kv_scales[1]), *(rounding.arguments if rounding else []), *more],
    )  # fmt: skip
