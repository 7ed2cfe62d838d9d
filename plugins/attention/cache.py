"""The paged KV cache of one layer: (2, P, B, K, D), keys first. Knows where tokens lie, not whose they are."""

from __future__ import annotations

import torch
from torch import Tensor

from ingot.network.config import ModelConfig
from ingot.plugins.quantize.reference import FP8, quantize_fp8


def allocate_caches(
    config: ModelConfig, num_pages: int, page_size: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> list[Tensor]:
    """One zeroed cache per layer; `dtype` is the model's or float8_e4m3fn."""
    shape = (2, num_pages, page_size, config.num_kv_heads, config.head_dim)
    return [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]


def write(cache: Tensor, k: Tensor, v: Tensor, slots: Tensor, kv_scale: Tensor | None) -> None:
    """Puts k and v (T, K, D) at `slots` (T,). An FP8 cache holds value / kv_scale, with kv_scale f32 (2,), 1 where absent."""
    both = torch.stack((k, v))
    if cache.dtype == FP8:
        scale = torch.ones(2, device=cache.device) if kv_scale is None else kv_scale
        # index_copy_ does not know float8: bytes are moved instead.
        cache, both = cache.view(torch.uint8), quantize_fp8(both, scale.view(2, 1, 1, 1)).view(torch.uint8)
    cache.flatten(1, 2).index_copy_(1, slots, both.to(cache.dtype))
