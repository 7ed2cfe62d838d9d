"""Rotary position embedding (arXiv:2104.09864), pairs (i, i + D/2) as in transformers. Angles are float32 always."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ingot.plugins.rms_norm.reference import rms_norm


def cos_sin(positions: Tensor, inverse_frequencies: Sequence[float], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(T,) -> cosines and sines (T, 1, D) as `rotate` wants them, computed in float32 and rounded to `dtype`.

    Both halves hold the same angles; the first half of the sines is negated.
    """
    frequencies = torch.tensor(inverse_frequencies, dtype=torch.float32, device=positions.device)
    angles = (positions.float().unsqueeze(-1) * frequencies).unsqueeze(1)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(T, heads, D) -> (T, heads, D)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((second, first), dim=-1) * sin


def split_and_rotate(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    num_heads: int,
    num_kv_heads: int,
    norms: tuple[Tensor, Tensor] | None = None,
    eps: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """(T, (H + 2K) * D) -> q (T, H, D), k (T, K, D), v (T, K, D). `norms` are q's and k's RMS norm weights (D,)."""
    heads = qkv.unflatten(-1, (num_heads + 2 * num_kv_heads, -1))
    q, k, v = heads.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
    if norms is not None:
        q, k = rms_norm(q, norms[0], eps), rms_norm(k, norms[1], eps)
        return rotate(q, cos, sin), rotate(k, cos, sin), v
    q, k = rotate(heads[:, : num_heads + num_kv_heads], cos, sin).split((num_heads, num_kv_heads), dim=1)
    return q, k, v
