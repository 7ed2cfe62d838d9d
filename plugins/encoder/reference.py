"""The encoder's vocabulary in PyTorch: what the cpu target runs. Sequences of one length share an attention call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from ingot.network.encoder import EncoderBatch
from ingot.network.encoder_config import EncoderConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionGroups:
    """Rows of a batch's sequences by length, each (n, length). Computed once for all layers."""

    batch: EncoderBatch[Tensor]
    rows: list[Tensor]


class EncoderReferenceOps:
    """EncoderOps over an encoder's tensors `<name>.weight` and `<name>.bias`, computing in `dtype`, on the tensors' device."""

    def __init__(self, config: EncoderConfig, tensors: Mapping[str, Tensor], *, dtype: torch.dtype) -> None:
        self._config = config
        self._tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        self._groups: AttentionGroups | None = None

    def embedding(self, name: str, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self._tensors[f"{name}.weight"])

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
        return functional.layer_norm(x, weight.shape, weight, bias, self._config.layer_norm_eps)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"])

    def attention(self, qkv: Tensor, batch: EncoderBatch[Tensor]) -> Tensor:
        config = self._config
        parts = qkv.unflatten(1, (3, config.num_heads, config.head_dim))
        out = torch.empty_like(parts[:, 0])
        for rows in self._begin(batch).rows:
            q, k, v = parts[rows].permute(2, 0, 3, 1, 4)  # each (n, H, length, D)
            out[rows] = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return out.flatten(1)

    def activation(self, x: Tensor) -> Tensor:
        match self._config.activation:
            case "relu":
                return functional.relu(x)
            case "gelu_tanh":
                return functional.gelu(x, approximate="tanh")
            case _:
                return functional.gelu(x)

    def _begin(self, batch: EncoderBatch[Tensor]) -> AttentionGroups:
        if self._groups is None or self._groups.batch is not batch:
            starts: dict[int, list[int]] = {}
            edges = batch.query_starts.tolist()
            for start, end in pairwise(edges):
                starts.setdefault(end - start, []).append(start)
            device = batch.token_ids.device
            rows = [
                torch.tensor(firsts, device=device).unsqueeze(1) + torch.arange(length, device=device)
                for length, firsts in starts.items()
            ]
            self._groups = AttentionGroups(batch=batch, rows=rows)
        return self._groups
