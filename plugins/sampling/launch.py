"""Launches greedy sampling."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from ingot.plugins.overlap import overlap
from ingot.plugins.packed import launch
from ingot.plugins.sampling import kernels

SHARE = 8192  # columns a program looks at


def greedy(logits: Tensor, tokens: Tensor, rows: Tensor | None = None, last_tokens: Tensor | None = None) -> None:
    """logits (R, V) -> tokens (R,) int32, and last_tokens[rows[r]] where rows[r] >= 0."""
    num_rows, width = logits.shape
    parts = triton.cdiv(width, SHARE)
    best = torch.empty(num_rows, parts, dtype=torch.float32, device=logits.device)
    where = torch.empty(num_rows, parts, dtype=torch.int32, device=logits.device)
    launch(
        kernels.argmax_part_kernel,
        (num_rows, parts),
        logits,
        best,
        where,
        width,
        parts,
        SHARE=SHARE,
        BLOCK=1024,
        num_warps=4,
        overlap=overlap(num_rows),
    )
    launch(kernels.argmax_join_kernel, (num_rows,), 
        best, where, tokens if rows is None else rows, tokens, tokens if last_tokens is None else last_tokens, parts,
        PARTS=triton.next_power_of_2(parts), FEED=rows is not None, num_warps=1, overlap=overlap(num_rows),
    )  # fmt: skip
