"""Launches the kernels that keep the tables."""

from __future__ import annotations

import triton
from torch import Tensor

from ingot.plugins.overlap import overlap
from ingot.plugins.packed import launch
from ingot.plugins.step import kernels

BLOCK = 128


def write_pages(deltas: Tensor, page_table: Tensor) -> None:
    """deltas (3, n) int32: row, index and page of n new entries of page_table (rows, pages)."""
    count = deltas.shape[1]
    launch(
        kernels.write_pages_kernel,
        (triton.cdiv(count, BLOCK),),
        deltas,
        page_table,
        count,
        page_table.stride(0),
        BLOCK=BLOCK,
        overlap=overlap(count),
    )


def prepare(
    inputs: Tensor,
    page_table: Tensor,
    last_tokens: Tensor,
    *,
    page_size: int,
    token_ids: Tensor,
    slots: Tensor,
    lengths: Tensor,
) -> None:
    """inputs (4, n) int32: row, position, token and new page of n tokens; see prepare_kernel. The rest (n,) is written."""
    count = inputs.shape[1]
    launch(
        kernels.prepare_kernel,
        (triton.cdiv(count, BLOCK),),
        inputs,
        page_table,
        last_tokens,
        token_ids,
        slots,
        lengths,
        count,
        page_table.stride(0),
        PAGE=page_size,
        BLOCK=BLOCK,
        overlap=overlap(count),
    )
