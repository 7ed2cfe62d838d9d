"""Draws tokens from logits by inverting the cumulative distribution. Knows tensors, not requests.

Letters: n rows, V vocabulary. Every row's result depends on that row alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 1e30  # stands for infinity: survives division by any temperature, and softmax of it is not NaN


def finite(logits: Tensor) -> Tensor:
    """A copy without NaN and infinities, so that a sick row draws some token rather than none."""
    return torch.nan_to_num(logits, nan=-LARGEST, posinf=LARGEST, neginf=-LARGEST)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """(n, V) and (n,) in [0, 1) -> tokens (n,) of softmax(logits)."""
    return invert(logits.softmax(-1).cumsum(-1), uniform)


def draw_top_k(logits: Tensor, top_k: Tensor, most: int, top_p: Tensor, min_p: Tensor, uniform: Tensor) -> Tensor:
    """As `draw_sorted`, for rows that all have a top_k (n,) int64 of at least 1 and at most `most`."""
    best, ids = logits.topk(min(most, logits.shape[-1]), dim=-1)
    return draw_sorted(best, ids, top_k, top_p, min_p, uniform)


def draw_truncated(logits: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor) -> Tensor:
    """As `draw_sorted`, for rows that have no top_k."""
    best, ids = logits.sort(dim=-1, descending=True, stable=True)
    return draw_sorted(best, ids, torch.full_like(ids[:, 0], logits.shape[-1]), top_p, min_p, uniform)


def draw_sorted(best: Tensor, ids: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor) -> Tensor:
    """Tokens (n,) of the renormalized distribution over what min_p, then top_k, then top_p leave (arXiv:1904.09751).

    `best` (n, m) holds logits in descending order and `ids` (n, m) their tokens: every filter keeps a prefix. top_p counts
    the mass that the filters before it left, and always keeps the best token.
    """
    place = torch.arange(best.shape[-1], device=best.device)
    kept = (place < top_k.unsqueeze(1)) & (best - best[:, :1] >= min_p.log().unsqueeze(1))
    mass = best.masked_fill(~kept, float("-inf")).softmax(-1).cumsum(-1)
    before = torch.cat((torch.zeros_like(mass[:, :1]), mass[:, :-1]), dim=-1)
    last = ((before < top_p.unsqueeze(1)) & kept).sum(-1, keepdim=True).clamp_min(1) - 1
    mass = torch.minimum(mass, mass.gather(1, last))
    return ids.gather(1, invert(mass, uniform).unsqueeze(1)).squeeze(1)


def invert(mass: Tensor, uniform: Tensor) -> Tensor:
    """First place (n,) where the rising `mass` (n, m) passes uniform * total; never one that adds nothing to it."""
    total = mass[:, -1:].contiguous()
    place = torch.searchsorted(mass, uniform.unsqueeze(1) * total, right=True)
    return torch.minimum(place, torch.searchsorted(mass, total)).squeeze(1).clamp_max(mass.shape[-1] - 1)
