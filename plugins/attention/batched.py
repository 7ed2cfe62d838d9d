"""Paged attention for whole steps in few PyTorch calls: pages gathered once per layer, then PyTorch's fused attention.

Sequences that decode one token run in groups, padded to the longest of each; the others run one by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ingot.network.ops import Batch
from ingot.plugins.attention.cache import write
from ingot.plugins.attention.reference import visible
from ingot.plugins.quantize.e4m3 import E4M3_BIAS, e4m3_bits_as_half
from ingot.plugins.quantize.reference import FP8

BLOCK = 1 << 19  # elements of keys that one call gathers: with the values, about what a core's cache holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Sequences that run as one call: either n that decode one token each, or a single one with m tokens."""

    rows: Tensor | slice  # of the flat batch: (n,) or m of them
    pages: Tensor  # (n * pages,)
    num_sequences: int
    masks: dict[
        int, Tensor | None
    ]  # window -> what is added to the scores, (n, 1, 1, L) or (m, L); None: plainly causal


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPlan:
    """What the layers of a step share."""

    groups: list[Group]


def plan_attention(batch: Batch[Tensor], cache: Tensor, windows: Iterable[int], dtype: torch.dtype) -> AttentionPlan:
    """Groups a step's sequences, those of like length together. `cache` is any layer's, `windows` are those of all layers."""
    page_size = cache.shape[2]
    starts, lengths = batch.query_starts.tolist(), batch.kv_lengths.tolist()
    distinct = sorted(set(windows))
    decoding, groups = [], []
    for s, length in enumerate(lengths):
        m = starts[s + 1] - starts[s]
        if m == 1:
            decoding.append(s)
        else:
            groups.append(prompt_group(batch, s, slice(starts[s], starts[s + 1]), length, page_size, distinct, dtype))
    decoding.sort(key=lambda s: lengths[s])
    room = BLOCK // cache[0, 0, 0].numel()
    while decoding:
        longest = -(-lengths[decoding[-1]] // page_size)
        count = max(1, room // (longest * page_size))
        members, decoding = decoding[-count:], decoding[:-count]
        groups.append(decode_group(batch, members, longest, page_size, distinct, dtype))
    return AttentionPlan(groups=groups)


def decode_group(
    batch: Batch[Tensor], members: list[int], num_pages: int, page_size: int, windows: list[int], dtype: torch.dtype
) -> Group:
    chosen = torch.tensor(members, device=batch.kv_lengths.device)
    lengths = batch.kv_lengths[chosen].unsqueeze(1)
    table = batch.page_table[chosen, :num_pages]
    # Entries past a context are arbitrary: the sequence's first page stands in, masked.
    past = torch.arange(num_pages, device=table.device) * page_size >= lengths
    table = torch.where(past, table[:, :1], table)
    key = torch.arange(num_pages * page_size, device=table.device)
    masks: dict[int, Tensor | None] = {}
    for window in windows:
        allowed = key < lengths
        if window:
            allowed &= key >= lengths - window
        masks[window] = additive(allowed, dtype).view(len(members), 1, 1, -1)
    return Group(rows=batch.query_starts[chosen], pages=table.flatten(), num_sequences=len(members), masks=masks)


def prompt_group(
    batch: Batch[Tensor], s: int, rows: slice, length: int, page_size: int, windows: list[int], dtype: torch.dtype
) -> Group:
    m = rows.stop - rows.start
    masks = {
        window: None
        if m == length and (not window or window >= length)
        else additive(visible(m, length, window, batch.kv_lengths.device), dtype)
        for window in windows
    }
    return Group(rows=rows, pages=batch.page_table[s, : -(-length // page_size)], num_sequences=1, masks=masks)


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: Tensor,
    batch: Batch[Tensor],
    plan: AttentionPlan,
    *,
    window: int = 0,
    kv_scale: Tensor | None = None,
) -> Tensor:
    """The reference's `attention`, with the batch's plan."""
    write(cache, k, v, batch.slots, kv_scale)
    out = torch.empty_like(q)
    key_scale, value_scale = scales(cache, kv_scale)
    scale = q.shape[-1] ** -0.5 * key_scale
    for group in plan.groups:
        keys, values = gather(cache, group, q.dtype)
        mask = group.masks[window]
        if isinstance(group.rows, Tensor):
            result = attend_decode(q.index_select(0, group.rows), keys, values, mask, scale)
            out.index_copy_(0, group.rows, result)
        else:
            out[group.rows] = attend_prompt(q[group.rows], keys, values, mask, scale)
    return out.flatten(1) if value_scale == 1.0 else out.flatten(1) * value_scale


def scales(cache: Tensor, kv_scale: Tensor | None) -> tuple[float, float]:
    """What gathered keys and values still have to be multiplied by."""
    if cache.dtype != FP8:
        return 1.0, 1.0
    key, value = (1.0, 1.0) if kv_scale is None else kv_scale.tolist()
    return key * E4M3_BIAS, value * E4M3_BIAS


def gather(cache: Tensor, group: Group, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values (n, K, L, D) of a group's pages."""
    fp8 = cache.dtype == FP8
    raw = cache.view(torch.uint8) if fp8 else cache
    found = raw.flatten(2).index_select(1, group.pages)
    # Through float32, since PyTorch's own half -> bfloat16 is slow.
    found = e4m3_bits_as_half(found).float().to(dtype) if fp8 else found.to(dtype)
    keys, values = found.view(2, group.num_sequences, -1, *cache.shape[3:]).transpose(2, 3)
    return keys, values


def attend_decode(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """q (n, H, D); the query heads that share a KV head become rows of one query, so that its keys are read once."""
    grouped = q.unflatten(1, (keys.shape[1], -1))
    out = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
    return out.reshape(q.shape)


def attend_prompt(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """q (m, H, D) of one sequence, whose KV heads become the batch: (K, H / K, m, D) against (K, 1, L, D), expanded."""
    grouped = q.unflatten(1, (keys.shape[1], -1)).permute(1, 2, 0, 3)
    length = mask.shape[-1] if mask is not None else q.shape[0]
    shape = (*grouped.shape[:2], length, q.shape[-1])
    keys, values = (x[0, :, :length].unsqueeze(1).expand(shape) for x in (keys, values))
    out = functional.scaled_dot_product_attention(
        grouped, keys, values, attn_mask=mask, is_causal=mask is None, scale=scale
    )
    return out.permute(2, 0, 1, 3).reshape(q.shape)
