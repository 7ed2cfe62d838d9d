"""A model run over texts one layer at a time, so that comparing two of them holds two layers in memory, not two models.

Knows the decoder's blocks and where their weights come from; refuses to know what the outcome is used for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ingot.builder.pack import Packer
from ingot.network.config import ModelConfig
from ingot.network.decoder import attention_block, mlp_block, norm_after
from ingot.network.names import layer_sources
from ingot.network.ops import Batch
from ingot.network.weights import Scheme, Weight
from ingot.plugins.attention.cache import allocate_caches
from ingot.plugins.linear.reference import dequantize
from ingot.plugins.load import read_weight
from ingot.plugins.reference_ops import ReferenceOps

PAGE_SIZE = 16

Weights = dict[str, Weight[Tensor]]
OpsFactory = Callable[[ModelConfig, Weights, list[Tensor], torch.dtype], ReferenceOps]


class WeightSource(Protocol):
    """Canonical weights by name, read when asked for."""

    def layer(self, layer: int) -> Weights:
        """Of one decoder layer, with the norm that closes it."""
        ...

    def single(self, name: str) -> Weights:
        """embed, lm_head or a norm."""
        ...


@dataclass(frozen=True, slots=True)
class OriginalWeights:
    """Of an unquantized checkpoint."""

    packer: Packer

    def layer(self, layer: int) -> Weights:
        tensors = self.packer.layer(layer)
        return weights_of(tensors, self.packer.config) | self.single(norm_after(self.packer.config, layer))

    def single(self, name: str) -> Weights:
        return weights_of(self.packer.vectors(name), self.packer.config)


@dataclass(frozen=True, slots=True)
class PackedWeights:
    """Of an engine's weight files. With `exact`, dequantized: what the engine would be with no rounding of inputs."""

    files: Mapping[str, Path]  # tensor name -> file
    config: ModelConfig
    exact: bool = False

    @classmethod
    def open(cls, folders: Sequence[Path], config: ModelConfig, *, exact: bool = False) -> PackedWeights:
        from safetensors import safe_open

        files: dict[str, Path] = {}
        for path in (path for folder in folders for path in sorted(folder.glob("*.safetensors"))):
            with safe_open(path, framework="pt") as file:
                files |= dict.fromkeys(file.keys(), path)
        return cls(files, config, exact)

    def layer(self, layer: int) -> Weights:
        names = [*layer_sources(self.config, layer), norm_after(self.config, layer)]
        if not self.exact and f"layers.{layer}.kv_scale" in self.files:
            names.append(f"layers.{layer}.kv_scale")
        return {key: weight for name in names for key, weight in self.single(name).items()}

    def single(self, name: str) -> Weights:
        from safetensors import safe_open

        tensors: dict[str, Tensor] = {}
        for key in (key for key in self.files if weight_name(key) == name):
            with safe_open(self.files[key], framework="pt") as file:
                tensors[key] = file.get_tensor(key)
        weights = weights_of(tensors, self.config)
        return {key: plain(weight) for key, weight in weights.items()} if self.exact else weights


class LayerwiseModel:
    """Hidden states of texts, moved through one layer at a time. `residuals` are each text's (T, C) after the last step."""

    def __init__(
        self,
        source: WeightSource,
        config: ModelConfig,
        texts: Sequence[Sequence[int]],
        *,
        dtype: torch.dtype,
        kv_dtype: torch.dtype,
        device: str = "cpu",
        make_ops: OpsFactory | None = None,
    ) -> None:
        self.source, self.config = source, config
        self._dtype, self._kv_dtype, self._device = dtype, kv_dtype, device
        self._make_ops = make_ops or reference_ops
        self._batches = [batch_of(text, device) for text in texts]
        ops = self._ops(source.single("embed") | source.single("layers.0.input_norm"), 1)
        self.residuals = [ops.embedding("embed", batch.token_ids) for batch in self._batches]
        self._inputs = [ops.rms_norm("layers.0.input_norm", residual) for residual in self.residuals]
        self._head: ReferenceOps | None = None

    def step(self, layer: int) -> None:
        """The decoder's loop body (network/decoder.py) over every text."""
        longest = max(len(batch.positions) for batch in self._batches)
        ops = self._ops(self.source.layer(layer), longest)
        for index, batch in enumerate(self._batches):
            x = ops.linear(f"layers.{layer}.o", attention_block(ops, layer, self._inputs[index], batch))
            x, residual = ops.add_rms_norm(f"layers.{layer}.post_norm", x, self.residuals[index])
            x = mlp_block(ops, layer, x)
            self._inputs[index], self.residuals[index] = ops.add_rms_norm(norm_after(self.config, layer), x, residual)

    def logits(self, index: int) -> Tensor:
        """(T, V) float32 of one text, once every layer has been stepped through."""
        if self._head is None:
            name = "embed" if self.config.tie_embeddings else "lm_head"
            self._head = self._ops({"lm_head": self.source.single(name)[name]}, 1)
        return self._head.logits("lm_head", self._inputs[index])

    def _ops(self, weights: Weights, num_tokens: int) -> ReferenceOps:
        """Ops for a layer's weights. Texts and layers follow each other, so one cache serves them all."""
        config = replace(self.config, tie_embeddings=False)  # the embedding is at hand only where it is asked for
        cache = allocate_caches(
            replace(config, num_layers=1), -(-num_tokens // PAGE_SIZE), PAGE_SIZE, self._kv_dtype, self._device
        )
        weights = {name: moved(weight, self._device) for name, weight in weights.items()}
        return self._make_ops(config, weights, cache * config.num_layers, self._dtype)


def reference_ops(config: ModelConfig, weights: Weights, caches: list[Tensor], dtype: torch.dtype) -> ReferenceOps:
    return ReferenceOps(config, weights, caches, dtype=dtype)


def weights_of(tensors: Mapping[str, Tensor], config: ModelConfig) -> Weights:
    names = {weight_name(key) for key in tensors}
    return {name: read_weight(tensors, name, config) for name in names}


def weight_name(key: str) -> str:
    """The weight that a tensor is part of."""
    return key if key.endswith(".kv_scale") else key.rpartition(".")[0]


def plain(weight: Weight[Tensor]) -> Weight[Tensor]:
    if weight.scheme is Scheme.NONE:
        return weight
    return Weight(scheme=Scheme.NONE, data=dequantize(weight), pre_scale=weight.pre_scale, bias=weight.bias)


def moved(weight: Weight[Tensor], device: str) -> Weight[Tensor]:
    parts = ("data", "weight_scale", "weight_scale_2", "input_scale", "pre_scale", "bias")
    found = {part: tensor.to(device) for part in parts if (tensor := getattr(weight, part)) is not None}
    return replace(weight, **found)


def batch_of(token_ids: Sequence[int], device: str) -> Batch[Tensor]:
    """A text as one sequence, read at once, every row's logits wanted."""
    length = len(token_ids)
    positions = torch.arange(length, device=device)
    return Batch(
        token_ids=torch.tensor(token_ids, device=device),
        positions=positions,
        slots=positions,
        page_table=torch.arange(-(-length // PAGE_SIZE), device=device).unsqueeze(0),
        query_starts=torch.tensor([0, length], device=device),
        kv_lengths=torch.tensor([length], device=device),
        logit_rows=positions,
    )
