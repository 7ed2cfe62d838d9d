"""Attention of one step on the GPU: sequences that decode by one kernel, prompts by the other. Knows no layers, no weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ingot.network.ops import Batch
from ingot.plugins.attention.launch import DecodeChoice, Paged, Rounding, Workspace, by_decode_cu, decode
from ingot.plugins.attention.prefill import PrefillChoice, Tiles, by_prefill_cu, prefill


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaBatch(Batch[Tensor]):
    """A batch whose first `num_decodes` sequences have one token each; the rest are prompts, covered by `tiles`.

    Where a captured step has room for more, `decode_lengths` says on the GPU which of them decode."""

    rows: Tensor | None = None  # (S,) int32: each sequence's row of page_table; None: in order
    num_decodes: int = 0
    decode_lengths: Tensor | None = None  # (num_decodes,) of sequences that decode, 0 of others; None: kv_lengths
    decode_choice: DecodeChoice | None = None
    tiles: Tiles | None = None
    all_rows: bool = False  # a decode step: logit_rows is every row, in order


def can_round(step: CudaBatch, num_heads: int, dtype: torch.dtype, cache: Tensor, choice: PrefillChoice | None) -> bool:
    """Whether every kernel that attention of this step takes can store e4m3."""
    decodes = step.num_decodes == 0 or by_decode_cu(step.decode_choice, dtype)
    return decodes and (step.tiles is None or by_prefill_cu(choice, num_heads, dtype, cache))


def attend(
    q: Tensor, paged: Paged, step: CudaBatch, out: Tensor, work: Workspace, choice: PrefillChoice | None = None,
    rounding: Rounding | None = None,
) -> None:  # fmt: skip
    """q, out (T, H, D); the cache already holds the step's keys and values. `choice`: how prompts are read. With `rounding` out is e4m3,
    where can_round."""
    attend_decodes(q, paged, step, out, work, rounding)
    if step.tiles is not None:
        prefill(q, paged, step.query_starts, step.tiles, out, choice, rounding)


def attend_decodes(
    q: Tensor, paged: Paged, step: CudaBatch, out: Tensor, work: Workspace, rounding: Rounding | None = None
) -> None:
    """`attend` of the sequences that decode, whose queries are the first rows of q."""
    if step.num_decodes:
        assert step.decode_choice is not None
        n = step.num_decodes
        decoding = paged if step.decode_lengths is None else replace(paged, lengths=step.decode_lengths)
        decode(q[:n], decoding, out[:n], work, step.decode_choice, rounding)
