"""The decoder's vocabulary in PyTorch: the truth that compiled targets are compared with, and what the cpu target runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ingot.network.config import ModelConfig
from ingot.network.decoder import attention_block
from ingot.network.ops import Batch
from ingot.network.rope import inverse_frequencies
from ingot.network.weights import Scheme, Weight
from ingot.plugins.attention.batched import AttentionPlan, attention, plan_attention
from ingot.plugins.linear.dense import dense_linear, densify
from ingot.plugins.rms_norm.reference import add_rms_norm, rms_norm
from ingot.plugins.rope.reference import cos_sin, split_and_rotate
from ingot.plugins.silu_mul.reference import silu_mul


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What every layer asks of the same batch, computed once."""

    batch: Batch[Tensor]
    cos: Tensor
    sin: Tensor
    attention: AttentionPlan


class ReferenceOps:
    """Ops over canonical weights, computing in `dtype` (float32, bfloat16, float16), on the weights' device.

    `caches` holds one (2, P, B, K, D) per layer and is extended in place.
    """

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, Weight[Tensor]], caches: list[Tensor], *, dtype: torch.dtype
    ) -> None:
        self.caches = caches
        self._config = config
        self._dtype = dtype
        self._frequencies = inverse_frequencies(config)
        self._kv_scales = [
            weights[name].data.float() if (name := f"layers.{layer}.kv_scale") in weights else None
            for layer in range(config.num_layers)
        ]
        self._linears = {name: densify(weight, dtype) for name, weight in weights.items() if weight.data.dim() == 2}
        self._vectors = {
            name: weight.data.to(dtype)
            for name, weight in weights.items()
            if weight.scheme is Scheme.NONE and weight.data.dim() == 1 and not name.endswith("kv_scale")
        }
        if config.tie_embeddings:
            self._linears["lm_head"] = self._linears["embed"]
        self._step: Step | None = None

    def embedding(self, name: str, token_ids: Tensor) -> Tensor:
        return functional.embedding(token_ids, self._linears[name].weight)

    def rms_norm(self, name: str, x: Tensor) -> Tensor:
        return rms_norm(x, self._vectors[name], self._config.rms_norm_eps)

    def add_rms_norm(self, name: str, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        return add_rms_norm(x, residual, self._vectors[name], self._config.rms_norm_eps)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return dense_linear(x, self._linears[name])

    def rope(self, layer: int, qkv: Tensor, batch: Batch[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        step, config = self._begin(batch), self._config
        norms = None
        if config.qk_norm:
            norms = self._vectors[f"layers.{layer}.q_norm"], self._vectors[f"layers.{layer}.k_norm"]
        return split_and_rotate(
            qkv,
            step.cos,
            step.sin,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            norms=norms,
            eps=config.rms_norm_eps,
        )

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, batch: Batch[Tensor]) -> Tensor:
        step = self._begin(batch)
        return attention(
            q,
            k,
            v,
            self.caches[layer],
            batch,
            step.attention,
            window=self._config.windows[layer],
            kv_scale=self._kv_scales[layer],
        )

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        return silu_mul(gate_up)

    def wanted_attention(self, layer: int, x: Tensor, batch: Batch[Tensor]) -> Tensor:
        return self.wanted_rows(attention_block(self, layer, x, batch), batch)

    def wanted_rows(self, x: Tensor, batch: Batch[Tensor]) -> Tensor:
        return x[batch.logit_rows]

    def logits(self, name: str, x: Tensor) -> Tensor:
        return dense_linear(x, self._linears[name]).float()

    def _begin(self, batch: Batch[Tensor]) -> Step:
        if self._step is None or self._step.batch is not batch:
            cos, sin = cos_sin(batch.positions, self._frequencies, self._dtype)
            plan = plan_attention(batch, self.caches[0], self._config.windows, self._dtype)
            self._step = Step(batch=batch, cos=cos, sin=sin, attention=plan)
        return self._step
