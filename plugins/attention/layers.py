"""Attention of every layer for compiled plans that stop at it: writes the step's keys and values, then attends."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ingot.network.config import ModelConfig
from ingot.plugins.attention.launch import Paged, Workspace, write
from ingot.plugins.attention.step import CudaBatch, attend


class PagedLayers:
    """`caches` holds one (2, P, K, B, D) per layer; `kv_scales` those of FP8 caches, keys' and values', by layer.

    What a call returns is overwritten by the next: it is consumed before the next layer's attention runs.
    """

    def __init__(
        self, config: ModelConfig, caches: list[Tensor], kv_scales: Sequence[tuple[float, float]], *, max_seqs: int, max_tokens: int,
        dtype: torch.dtype, device: torch.device,
    ) -> None:  # fmt: skip
        self._config, self._caches, self._kv_scales = config, caches, kv_scales
        self._work = Workspace.allocate(max_seqs, config.num_heads, config.head_dim, device)
        self._out = torch.empty(max_tokens, config.num_heads, config.head_dim, dtype=dtype, device=device)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, step: CudaBatch) -> Tensor:
        """q (T, H, D), k and v (T, K, D) -> (T, H * D)."""
        cache, scales, out = self._caches[layer], self._kv_scales[layer], self._out[: q.shape[0]]
        write(k, v, step.slots, cache, scales)
        paged = Paged(
            cache=cache, page_table=step.page_table, rows=step.rows, lengths=step.kv_lengths, window=self._config.windows[layer],
            kv_scales=scales,
        )  # fmt: skip
        attend(q, paged, step, out, self._work)
        return out.flatten(1)
