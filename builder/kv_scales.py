"""Scales of an FP8 KV cache, measured on calibration text where a checkpoint brings none.

Knows that e4m3 reaches 448 and where keys and values pass by; refuses to know how weights are quantized.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ingot.builder.corpus import Corpus, token_sequences
from ingot.builder.layerwise import LayerwiseModel, PackedWeights, Weights
from ingot.builder.resolve import Job
from ingot.builder.shards import ShardWriter
from ingot.network.config import ModelConfig
from ingot.network.ops import Batch
from ingot.plugins.dtypes import torch_dtype
from ingot.plugins.quantize.reference import FP8_MAX, scale_of
from ingot.plugins.reference_ops import ReferenceOps


class KvRange(ReferenceOps):
    """Reference ops that remember the largest key and value of every layer."""

    largest: dict[int, Tensor]  # layer -> (2,) float32

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, batch: Batch[Tensor]) -> Tensor:
        seen = torch.stack((k.abs().amax(), v.abs().amax())).float()
        self.largest[layer] = torch.maximum(self.largest.get(layer, seen), seen)
        return super().attention(layer, q, k, v, batch)


def has_kv_scales(packed: Path) -> bool:
    from safetensors import safe_open

    for path in packed.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            if "layers.0.kv_scale" in file.keys():  # noqa: SIM118 - the file is no mapping
                return True
    return False


def calibrate_kv(job: Job, packed: Path, corpus: Corpus, folder: Path, advance: Callable[[int], None]) -> None:
    """Writes `layers.N.kv_scale` (2,) float32, the largest magnitude seen / 448 of keys and of values.

    The same rule as ModelOpt's FP8_KV_CFG, for schemes that need no other calibration (none, fp8-dynamic).
    """
    recipe = job.recipe
    texts = token_sequences(
        corpus, job.checkpoint.folder, length=recipe.calibration_length, count=recipe.calibration_samples
    )
    largest: dict[int, Tensor] = {}

    def make_ops(config: ModelConfig, weights: Weights, caches: list[Tensor], dtype: torch.dtype) -> ReferenceOps:
        ops = KvRange(config, weights, caches, dtype=dtype)
        ops.largest = largest
        return ops

    dtype = torch_dtype(job.dtype)
    with torch.inference_mode():
        source = PackedWeights.open([packed], job.config)
        device = "cuda" if job.target != "cpu" and torch.cuda.is_available() else "cpu"
        model = LayerwiseModel(source, job.config, texts, dtype=dtype, kv_dtype=dtype, device=device, make_ops=make_ops)
        with ShardWriter(folder, stem="kv-scales") as shards:
            for layer in range(job.config.num_layers):
                model.step(layer)
                shards.add(f"layers.{layer}.kv_scale", scale_of(largest[layer].cpu(), FP8_MAX))
                advance(1)
