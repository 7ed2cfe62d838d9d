"""Launches paged attention of decode steps: picks the CUDA C++ or the Triton kernel and the number of KV splits; writes the cache.
Of prompts: prefill.py.

The CUDA engine keeps its cache as (2, P, K, B, D): a page's tokens of one head lie together, so that one page-table
entry serves a whole tile of contiguous rows.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import triton
from torch import Tensor

from ingot.network.config import ModelConfig
from ingot.plugins.attention import kernels
from ingot.plugins.cubin import Argument, kernel
from ingot.plugins.overlap import AHEAD, overlap
from ingot.plugins.packed import launch

SOURCE = Path(__file__).with_name("decode.cu")
LOG2_E = math.log2(math.e)
MAX_SPLITS = 32
# Blocks of decode.cu at head dim 128 that an H200 holds at once, by (warps, sub); the first is the fastest where all rounds are full.
ROOM_BF16 = {(2, 2): 528, (2, 1): 792, (4, 1): 396}
ROOM_FP8 = {(2, 1): 1056, (2, 2): 792, (4, 1): 528, (4, 2): 396, (8, 1): 264}
WORTH = 0.97  # what a way takes of the usual one's time, to be taken
WRITTEN_HEADS = 8  # that one program of the write kernel takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Paged:
    """What decode and prefill both ask: the cache of one layer, where its pages are, and how to scale."""

    cache: Tensor  # (2, P, K, B, D)
    page_table: Tensor  # (rows, pages) int32
    rows: Tensor | None  # (S,) int32: each sequence's row of page_table; None: in order
    lengths: Tensor  # (S,) int32 context lengths; 0: padding, nothing is computed
    window: int = 0
    scale: float | None = None  # of the scores; None: 1 / sqrt(D)
    kv_scales: tuple[float, float] = (1.0, 1.0)

    @property
    def score_scale(self) -> float:
        """Of the raw product, in base 2."""
        dim = self.cache.shape[-1]
        return (dim**-0.5 if self.scale is None else self.scale) * LOG2_E * self.kv_scales[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """What attention that stores e4m3 needs: the scale that the linear which reads it was calibrated with."""

    scale: Tensor  # (1,) float32
    row_scales: Tensor  # (T,) float32: the same for every row, written by the kernel

    @property
    def arguments(self) -> list[Argument]:
        return [self.scale, self.row_scales]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """Partial results of split decode attention. `counters` are zero between launches."""

    partial: Tensor  # float32
    counters: Tensor  # int32

    @classmethod
    def allocate(cls, max_seqs: int, num_heads: int, dim: int, device: torch.device) -> Workspace:
        size = max(max_seqs, 1024) * num_heads * (dim + 2) * 2
        counters = torch.zeros(max_seqs * num_heads, dtype=torch.int32, device=device)
        return cls(partial=torch.empty(size, dtype=torch.float32, device=device), counters=counters)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeChoice:
    """How a decode launch is cut. warps, sub and alone: see decode.cu."""

    splits: int
    warps: int = 4
    sub: int = 1
    alone: int = 1024
    cuda: bool = True
    tile: int = field(default=32, kw_only=True)  # Triton's


def unsplit(blocks: int, room: Mapping[tuple[int, int], int]) -> DecodeChoice:
    """The first way of `room` unless another's rounds of blocks, the last one full or not, are WORTH fewer."""
    rounds = {way: -(-blocks // at_once) * at_once for way, at_once in room.items()}
    usual = next(iter(room))
    fewest = min(room, key=rounds.__getitem__)
    warps, sub = fewest if rounds[fewest] < WORTH * rounds[usual] else usual
    return DecodeChoice(splits=1, warps=warps, sub=sub)


def choose_decode(
    num_seqs: int, num_kv_heads: int, group: int, dim: int, dtype: torch.dtype, max_length: int
) -> DecodeChoice:
    """Enough blocks to fill the machine. decode.cu's as measured on an H200 with 8 KV heads of 128, 48 to 256 sequences of 384 to 4096 tokens:
    where a round more than another way's has to be begun, that is what it costs; of Triton's kernel none is shorter than 256 tokens of the
    longest context."""
    cuda = dim in (64, 128) and group <= 8 and dtype in (torch.bfloat16, torch.float8_e4m3fn)
    blocks = num_seqs * num_kv_heads
    if not cuda:
        return DecodeChoice(splits=max(1, min(132 * 2 // blocks, max_length // 256, MAX_SPLITS)), cuda=False)
    if blocks > 132:
        return unsplit(blocks, ROOM_BF16 if dtype == torch.bfloat16 else ROOM_FP8)
    # A block a multiprocessor, which then has registers for twice the loads: what has no work costs too, 2 us for 128 blocks.
    splits = max(1, min(132 // blocks, max_length // 512, MAX_SPLITS))
    return DecodeChoice(splits=splits, warps=8, sub=2)


def decode_choice(config: ModelConfig, num_seqs: int, kv_dtype: torch.dtype, max_length: int) -> DecodeChoice:
    """`choose_decode` for a model's attention."""
    group = config.num_heads // config.num_kv_heads
    return choose_decode(num_seqs, config.num_kv_heads, group, config.head_dim, kv_dtype, max_length)


def decode_defines(
    choice: DecodeChoice,
    *,
    dim: int,
    group: int,
    page: int,
    fp8: bool,
    ahead: bool,
    rotates: bool = False,
    rounds: bool = False,
) -> dict[str, int]:
    """What decode.cu is compiled with."""
    return {
        "ROTATES": int(rotates), "ROUNDS": int(rounds),
        "HEAD_DIM": dim, "GROUP": group, "PAGE": page, "KV_FP8": int(fp8), "WARPS": choice.warps, "SUB": choice.sub,
        "ALONE": choice.alone, "AHEAD": int(ahead),
    }  # fmt: skip


def compile_decode(
    config: ModelConfig, max_num_seqs: int, max_length: int, page: int, dtype: torch.dtype, kv_dtype: torch.dtype, *, rounds: bool,
) -> None:  # fmt: skip
    """Has the CUDA C++ decode kernel in the kernel cache in every form that batches up to max_num_seqs choose, but for those
    that rotate: they run in captured steps alone. `rounds`: see Rounding."""
    dim, group, fp8 = config.head_dim, config.num_heads // config.num_kv_heads, kv_dtype == torch.float8_e4m3fn
    for num_seqs in range(1, max_num_seqs + 1):
        choice = decode_choice(config, num_seqs, kv_dtype, max_length)
        if by_decode_cu(choice, dtype):
            ahead = overlap(num_seqs) == AHEAD
            defines = decode_defines(choice, dim=dim, group=group, page=page, fp8=fp8, ahead=ahead, rounds=rounds)
            kernel(SOURCE, "paged_decode", defines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """What turns a qkv product into rotated queries, keys and values; see rope/launch.py."""

    table: Tensor  # (positions, D) float32
    norms: tuple[Tensor, Tensor] | None
    eps: float


def by_decode_cu(choice: DecodeChoice | None, dtype: torch.dtype) -> bool:
    """Whether `choice` runs decode.cu for queries of `dtype`."""
    return choice is not None and choice.cuda and dtype == torch.bfloat16


def rotates_within(dim: int, dtype: torch.dtype, choice: DecodeChoice | None) -> bool:
    """Whether decode.cu can rotate queries and write keys and values itself."""
    return by_decode_cu(choice, dtype) and dim == 128


def rotate_and_decode(
    qkv: Tensor, rotation: Rotation, paged: Paged, out: Tensor, work: Workspace, choice: DecodeChoice, rounding: Rounding | None = None,
) -> None:  # fmt: skip
    """`decode` of qkv (S, (H + 2K) * D), not rotated yet, whose keys and values go to the cache at position length - 1."""
    num_heads = out.shape[1]
    norms = rotation.norms or (None, None)
    more = [rotation.table, *norms, ctypes.c_float(rotation.eps), ctypes.c_float(paged.kv_scales[0])]
    cuda_decode(qkv, paged, out, work, choice, num_heads // paged.cache.shape[2], rounding, more)


def cuda_decode(
    q: Tensor,
    paged: Paged,
    out: Tensor,
    work: Workspace,
    choice: DecodeChoice,
    group: int,
    rounding: Rounding | None = None,
    more: Sequence[Argument] = (),
) -> None:
    num_seqs, _, dim = out.shape
    num_kv_heads, page = paged.cache.shape[2:4]
    way, fp8 = overlap(num_seqs), paged.cache.dtype == torch.float8_e4m3fn
    defines = decode_defines(
        choice, dim=dim, group=group, page=page, fp8=fp8, ahead=way == AHEAD, rotates=bool(more), rounds=rounding is not None
    )  # fmt: skip
    rounded = rounding.arguments if rounding else []
    kernel(SOURCE, "paged_decode", defines).launch(
        (choice.splits, num_kv_heads, num_seqs), 32 * choice.warps,
        [out, q, paged.cache, paged.page_table, paged.rows, paged.lengths, work.partial, work.counters,
         ctypes.c_longlong(paged.cache.stride(0) * paged.cache.element_size()), ctypes.c_int(paged.page_table.stride(0)),
         ctypes.c_int(paged.window), ctypes.c_float(paged.score_scale), ctypes.c_float(paged.kv_scales[1]), *rounded, *more],
        overlap=way > 0,
    )  # fmt: skip


def write(k: Tensor, v: Tensor, slots: Tensor, cache: Tensor, kv_scales: tuple[float, float]) -> None:
    """k, v (T, K, D) to cache (2, P, K, B, D) at `slots` (T,), nowhere where negative; an FP8 cache holds value / scale."""
    num_tokens, num_kv_heads, dim = k.shape
    heads = min(WRITTEN_HEADS, triton.next_power_of_2(num_kv_heads))
    launch(
        kernels.write_kernel, (num_tokens, triton.cdiv(num_kv_heads, heads)),
        k, v, slots, cache, *kv_scales, cache.stride(0), num_kv_heads, HEADS=heads, D=dim, DP=triton.next_power_of_2(dim),
        PAGE=cache.shape[3], num_warps=4, overlap=overlap(num_tokens),
    )  # fmt: skip


def decode(
    q: Tensor, paged: Paged, out: Tensor, work: Workspace, choice: DecodeChoice, rounding: Rounding | None = None
) -> None:
    """q, out (S, H, D): one query token per sequence over its context, which already holds that token. With `rounding`, which decode.cu
    alone can, out is e4m3."""
    num_seqs, num_heads, dim = q.shape
    num_kv_heads, page = paged.cache.shape[2:4]
    group = num_heads // num_kv_heads
    grid = (choice.splits, num_kv_heads, num_seqs)
    if by_decode_cu(choice, q.dtype):
        cuda_decode(q, paged, out, work, choice, group, rounding)
        return
    if rounding is not None:
        raise ValueError("decode.cu alone stores e4m3, and does not take this; see step.can_round.")
    padded = triton.next_power_of_2(dim)
    launch(kernels.decode_kernel, grid, 
        q, paged.cache, paged.page_table, paged.lengths if paged.rows is None else paged.rows, paged.lengths, out, work.partial,
        paged.score_scale, paged.kv_scales[1], paged.cache.stride(0), paged.page_table.stride(0), num_kv_heads, choice.splits,
        WINDOW=paged.window, HAS_ROWS=paged.rows is not None, G=group, GP=max(16, triton.next_power_of_2(group)), D=dim, DP=padded,
        PAGE=page, TILE=choice.tile, num_warps=2, num_stages=3, overlap=overlap(q.shape[0]),
    )  # fmt: skip
    if choice.splits > 1:
        launch(kernels.combine_kernel, (num_heads, num_seqs), 
            work.partial, paged.lengths, out, paged.kv_scales[1], num_kv_heads, choice.splits, G=group, D=dim, DP=padded,
            SP=MAX_SPLITS, num_warps=4, overlap=overlap(q.shape[0]),
        )  # fmt: skip
