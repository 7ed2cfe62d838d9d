"""Launches the fused split, q/k norm, rotation and KV write."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from ingot.plugins.overlap import overlap
from ingot.plugins.packed import launch
from ingot.plugins.rope import kernels

HEADS_PER_PROGRAM = 16


def rope_table(frequencies: tuple[float, ...], max_position: int, device: torch.device) -> Tensor:
    """(max_position, D) float32: cosines of every position's angles, then sines."""
    angles = torch.arange(max_position, dtype=torch.float32).unsqueeze(1) * torch.tensor(
        frequencies, dtype=torch.float32
    )
    return torch.cat((angles.cos(), angles.sin()), dim=1).to(device)


def rope_and_write(
    qkv: Tensor, positions: Tensor, slots: Tensor, table: Tensor, cache: Tensor, *, num_heads: int, norms: tuple[Tensor, Tensor] | None,
    eps: float, kv_scales: tuple[float, float], rotated: int | None = None,
) -> Tensor:  # fmt: skip
    """qkv (T, (H + 2K) * D) -> q (T, H, D), or only of the first `rotated` tokens; k and v go to cache (2, P, K, B, D) at
    `slots`, nowhere where negative. Takes queries alone too, and with `num_heads` 0 keys and values alone."""
    page, dim = cache.shape[3:]
    num_kv_heads = (qkv.shape[1] // dim - num_heads) // 2
    rotated = qkv.shape[0] if rotated is None else rotated
    q = torch.empty(rotated, num_heads, dim, dtype=qkv.dtype, device=qkv.device)
    of_queries, of_keys = (triton.cdiv(heads, HEADS_PER_PROGRAM) for heads in (num_heads, 2 * num_kv_heads))
    grid = (rotated * of_queries + qkv.shape[0] * of_keys,)
    q_norm, k_norm = norms or (qkv, qkv)
    launch(kernels.rope_kernel, grid, 
        qkv, positions, slots, table, q_norm, k_norm, q, cache, kv_scales[0], kv_scales[1], eps, cache.stride(0), num_heads, num_kv_heads,
        rotated, QK_NORM=norms is not None, D=dim, HALF=triton.next_power_of_2(dim // 2), PAGE=page, HEADS=HEADS_PER_PROGRAM, num_warps=4, overlap=overlap(qkv.shape[0]),
    )  # fmt: skip
    return q
