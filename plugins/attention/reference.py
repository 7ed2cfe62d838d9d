"""Paged attention one sequence at a time, in float32: slow and true."""

from __future__ import annotations

import torch
from torch import Tensor

from ingot.network.ops import Batch
from ingot.plugins.attention.cache import write
from ingot.plugins.quantize.reference import FP8


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: Tensor,
    batch: Batch[Tensor],
    *,
    window: int = 0,
    kv_scale: Tensor | None = None,
) -> Tensor:
    """q (T, H, D), k and v (T, K, D) -> (T, H * D) in q's dtype; k and v are in `cache` (2, P, B, K, D) afterwards.

    A query at position p sees keys at positions p - window < position <= p; window 0 sees all up to p. Queries attend to keys
    and values as the cache holds them, this step's own included.
    """
    write(cache, k, v, batch.slots, kv_scale)
    starts, lengths = batch.query_starts.tolist(), batch.kv_lengths.tolist()
    out = torch.empty_like(q)
    for s, length in enumerate(lengths):
        rows = slice(starts[s], starts[s + 1])
        keys, values = read(cache, batch.page_table[s], length, kv_scale)
        out[rows] = attend(q[rows].float(), keys, values, window).to(q.dtype)
    return out.flatten(1)


def read(cache: Tensor, pages: Tensor, length: int, kv_scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Keys and values (length, K, D) of one sequence in float32."""
    page_size = cache.shape[2]
    used = pages[: -(-length // page_size)]
    keys, values = cache[:, used].flatten(1, 2)[:, :length].float()
    if cache.dtype == FP8 and kv_scale is not None:
        keys, values = keys * kv_scale[0], values * kv_scale[1]
    return keys, values


def attend(q: Tensor, keys: Tensor, values: Tensor, window: int) -> Tensor:
    """q (m, H, D) are the last m of keys' L positions; returns (m, H, D)."""
    (m, num_heads, head_dim), length = q.shape, keys.shape[0]
    group = num_heads // keys.shape[1]
    keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
    scores = torch.einsum("mhd,lhd->hml", q, keys) * head_dim**-0.5
    scores = scores.masked_fill(~visible(m, length, window, q.device), float("-inf"))
    return torch.einsum("hml,lhd->mhd", scores.softmax(-1), values)


def visible(m: int, length: int, window: int, device: torch.device) -> Tensor:
    """bool (m, length): which positions the last m of them may see."""
    position = torch.arange(length - m, length, device=device).unsqueeze(1)
    key = torch.arange(length, device=device)
    allowed = key <= position
    return allowed & (key > position - window) if window else allowed
