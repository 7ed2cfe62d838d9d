"""The last layer of a long step, where few rows are asked for their logits: each is a sequence that decodes its own token."""

from __future__ import annotations

from dataclasses import replace

import torch

from ingot.plugins.attention.launch import DecodeChoice
from ingot.plugins.attention.step import CudaBatch

LEAST_TOKENS = 4096  # of a step: in shorter ones the kernels that come on top cost what queries left out save


def asks_few(batch: CudaBatch, max_seqs: int) -> bool:
    """Whether it pays to compute the queries of batch.logit_rows alone, and decode attention has room for them: for max_seqs."""
    tokens, wanted = len(batch.token_ids), len(batch.logit_rows)
    return tokens >= LEAST_TOKENS and 4 * wanted <= tokens and wanted <= max_seqs


def asked(batch: CudaBatch, choice: DecodeChoice) -> CudaBatch:
    """Row batch.logit_rows[r] as sequence r, of one token, that decodes by `choice`; the cache holds its keys and values already."""
    wanted = batch.logit_rows
    seqs = torch.searchsorted(batch.query_starts, wanted, right=True, out_int32=True) - 1
    positions = batch.positions[wanted]
    starts = torch.arange(len(wanted) + 1, dtype=torch.int32, device=wanted.device)
    return replace(
        batch, token_ids=batch.token_ids[wanted], positions=positions, slots=torch.full_like(positions, -1), query_starts=starts,
        kv_lengths=positions + 1, logit_rows=starts[:-1], rows=seqs if batch.rows is None else batch.rows[seqs],
        num_decodes=len(wanted), decode_lengths=None, decode_choice=choice, tiles=None, all_rows=True,
    )  # fmt: skip
