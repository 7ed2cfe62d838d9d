"""Teacher-forced logits: what a model says at every position of a given text. For verification, not for serving."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ingot.network.config import ModelConfig
from ingot.network.decoder import decoder
from ingot.network.ops import Batch
from ingot.network.weights import Weight
from ingot.plugins.attention.cache import allocate_caches
from ingot.plugins.reference_ops import ReferenceOps

PAGE_SIZE = 16


class Scorer:
    """Reference ops with a KV cache of their own, made anew for every text, on the weights' device."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Weight[Tensor]],
        *,
        dtype: torch.dtype,
        kv_dtype: torch.dtype | None = None,
        chunk: int = 512,
    ) -> None:
        self.ops = ReferenceOps(config, weights, [], dtype=dtype)
        self._config = config
        self._kv_dtype = kv_dtype or dtype
        self._chunk = chunk
        self._device = weights["embed"].data.device

    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """(T, V) in float32: row t is the distribution of the token after token_ids[: t + 1]."""
        with torch.inference_mode():
            return torch.cat([decoder(self.ops, self._config, batch) for batch in self.batches(token_ids)])

    def batches(self, token_ids: Sequence[int]) -> Iterator[Batch[Tensor]]:
        """The text in chunks that follow each other in a fresh cache; every row's logits are asked for."""
        num_pages = -(-len(token_ids) // PAGE_SIZE)
        self.ops.caches = allocate_caches(self._config, num_pages, PAGE_SIZE, self._kv_dtype, self._device)
        for start in range(0, len(token_ids), self._chunk):
            part = torch.tensor(token_ids[start : start + self._chunk], device=self._device)
            positions = torch.arange(start, start + len(part), device=self._device)
            yield Batch(
                token_ids=part,
                positions=positions,
                slots=positions,
                page_table=torch.arange(num_pages, device=self._device).unsqueeze(0),
                query_starts=torch.tensor([0, len(part)], device=self._device),
                kv_lengths=torch.tensor([start + len(part)], device=self._device),
                logit_rows=torch.arange(len(part), device=self._device),
            )
