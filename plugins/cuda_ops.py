"""The decoder's vocabulary as fused CUDA and Triton kernels. Knows batches of tokens; knows no requests and no files.

What fuses: residual add + norm + rounding for the next linear; split + q/k norm + rotation + KV write; silu * up +
rounding for the down projection, which the product of gate and up may do itself. A step's extra facts, for attention, travel in `CudaBatch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ingot.errors import UnsupportedModelError
from ingot.network.config import ModelConfig
from ingot.network.decoder import attention_block
from ingot.network.ops import Batch, Ops
from ingot.network.rope import inverse_frequencies
from ingot.network.weights import Scheme, Weight
from ingot.plugins.attention.asked import asked, asks_few
from ingot.plugins.attention.launch import (
    DecodeChoice,
    Paged,
    Rotation,
    Rounding,
    Workspace,
    by_decode_cu,
    decode_choice,
    rotate_and_decode,
    rotates_within,
)
from ingot.plugins.attention.prefill import Tiles, by_prefill_cu, rotate_and_prefill
from ingot.plugins.attention.step import CudaBatch, attend, attend_decodes, can_round
from ingot.plugins.attention.tiles import plan_tiles, prefill_rows
from ingot.plugins.linear.gated import fits_gated, gated, well_filled
from ingot.plugins.linear.launch import Choice, Choices, Library, ends_with_silu, run_linear, skinny_gated, split_rows
from ingot.plugins.linear.reference import dequantize
from ingot.plugins.overlap import choose_overlap
from ingot.plugins.quantize.launch import Quantized, by_one_scale, ended, ending, quantize_rows
from ingot.plugins.rms_norm.launch import rms_norm
from ingot.plugins.rope.launch import rope_and_write, rope_table
from ingot.plugins.silu_mul.launch import silu_mul


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated:
    """silu_mul not computed yet: the linear that reads it knows how to round it."""

    gate_up: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Activated:
    """silu(gate) * up, computed by the product of gate and up itself, which may have rounded it for the linear that reads it."""

    values: Tensor | Quantized


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrotated:
    """The qkv product of a step, which attention rotates itself: all of it, or the queries of prompts."""

    qkv: Tensor
    decoding: Tensor | None = None  # (num_decodes, H, D) queries, rotated; keys and values are then in the cache


class CudaOps:
    """Ops over canonical weights on one GPU. `caches` holds one (2, P, K, B, D) per layer, extended in place."""

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, Weight[Tensor]], caches: list[Tensor], *, dtype: torch.dtype,
        choices: Choices | None = None, max_seqs: int = 1024, max_position: int | None = None,
    ) -> None:  # fmt: skip
        self.caches = caches
        self.choices = choices or Choices(tuned={})
        self._variants = self.choices.variants
        self.settle()
        self._config, self._dtype, self._max_seqs = config, dtype, max_seqs
        device = weights["embed"].data.device
        self._weights = {
            name: usable(weight, dtype) for name, weight in weights.items() if not name.endswith("kv_scale")
        }
        if config.tie_embeddings:
            self._weights["lm_head"] = self._weights["embed"]
        self._kv_scales = [kv_scales(weights.get(f"layers.{layer}.kv_scale")) for layer in range(config.num_layers)]
        self._table = rope_table(inverse_frequencies(config), max_position or config.max_position, device)
        self._work = Workspace.allocate(max_seqs, config.num_heads, config.head_dim, device)
        self._readers = readers(config, self._weights)

    def settle(self) -> None:
        """Has every kernel launched from now on overlap as these ops' choices say."""
        choose_overlap(self._variants.overlap)

    def embedding(self, name: str, token_ids: Tensor) -> Tensor:
        return functional.embedding(token_ids, self._weights[name].data)

    def rms_norm(self, name: str, x: Tensor) -> Tensor | Quantized:
        return rms_norm(x, None, self._weights[name].data, self._config.rms_norm_eps, self._readers.get(name))

    def add_rms_norm(self, name: str, x: Tensor, residual: Tensor) -> tuple[Tensor | Quantized, Tensor]:
        out = rms_norm(x, residual, self._weights[name].data, self._config.rms_norm_eps, self._readers.get(name))
        return out, residual

    def linear(self, name: str, x: Tensor | Quantized | Gated | Activated) -> Tensor | Activated:
        weight = self._weights[name]
        if isinstance(x, Gated):
            x = silu_mul(x.gate_up, weight, self._variants.silu)
        elif isinstance(x, Activated):
            x = ended(x.values, weight)
        elif isinstance(x, Tensor) and name.endswith(".o"):
            x = ended(x, weight)
        elif name.endswith(".gate_up"):
            found = self._activated(weight, self._weights[down_of(name)], x)
            if found is not None:
                return Activated(values=found)
        return run_linear(x, weight, self._pick(weight, x), out_dtype=self._dtype)

    def _activated(
        self, weight: Weight[Tensor], reader: Weight[Tensor], x: Tensor | Quantized
    ) -> Tensor | Quantized | None:
        """silu(gate) * up where the product of gate and up is to end with it."""
        rows, least = len(x.values if isinstance(x, Quantized) else x), self._variants.gated_rows
        if 0 < least <= rows and fits_gated(weight, self._dtype) and well_filled(rows, weight.data.shape[0]):
            return gated(x, weight, reader)
        choice = self._pick(weight, x)
        if ends_with_silu(choice, weight, reader, self._dtype):
            return skinny_gated(x, weight, reader, choice)
        return None

    def _pick(self, weight: Weight[Tensor], x: Tensor | Quantized) -> Choice:
        rows, k = (x.values if isinstance(x, Quantized) else x).shape
        return self.choices.pick(weight.scheme, weight.data.shape[0], k, rows)

    def rope(self, layer: int, qkv: Tensor, batch: Batch[Tensor]) -> tuple[Tensor | Unrotated, Tensor, Tensor]:
        if self._rotates_itself(batch):
            return Unrotated(qkv=qkv), qkv, qkv
        rotated = self._rotated(batch)
        q = self._rope(layer, qkv, batch, num_heads=self._config.num_heads, rotated=rotated)
        return q if rotated is None else Unrotated(qkv=qkv, decoding=q), qkv, qkv  # k and v are in the cache already

    def _rope(
        self, layer: int, x: Tensor, batch: Batch[Tensor], *, num_heads: int, rotated: int | None = None
    ) -> Tensor:
        return rope_and_write(
            x, batch.positions, batch.slots, self._table, self.caches[layer], num_heads=num_heads, norms=self._head_norms(layer),
            eps=self._config.rms_norm_eps, kv_scales=self._kv_scales[layer], rotated=rotated,
        )  # fmt: skip

    def _rotates_itself(self, batch: Batch[Tensor]) -> bool:
        if not isinstance(batch, CudaBatch) or not batch.all_rows or batch.tiles is not None:
            return False
        if not 0 < self._variants.rotating_rows <= batch.num_decodes:
            return False
        return rotates_within(self._config.head_dim, self._dtype, batch.decode_choice)

    def _rotated(self, batch: Batch[Tensor]) -> int | None:
        """Of how many tokens queries are rotated before attention: None: of all."""
        wanted = 0 < self._variants.rotated_prompts <= len(batch.token_ids)
        if not wanted or not isinstance(batch, CudaBatch) or batch.tiles is None:
            return None
        possible = by_prefill_cu(self._variants.prefill, self._config.num_heads, self._dtype, self.caches[0])
        return batch.num_decodes if possible else None

    def _head_norms(self, layer: int) -> tuple[Tensor, Tensor] | None:
        if not self._config.qk_norm:
            return None
        return self._weights[f"layers.{layer}.q_norm"].data, self._weights[f"layers.{layer}.k_norm"].data

    def attention(
        self, layer: int, q: Tensor | Unrotated, k: Tensor, v: Tensor, batch: Batch[Tensor]
    ) -> Tensor | Quantized:
        """Rounded for the linear that reads it where the kernels can."""
        step = batch if isinstance(batch, CudaBatch) else classified(batch, self._config, self.caches[0])
        config, reader = self._config, self._weights[f"layers.{layer}.o"]
        paged = Paged(
            cache=self.caches[layer], page_table=step.page_table, rows=step.rows, lengths=step.kv_lengths,
            window=config.windows[layer], kv_scales=self._kv_scales[layer],
        )  # fmt: skip
        rounds = by_one_scale(reader) and can_round(
            step, config.num_heads, self._dtype, paged.cache, self._variants.prefill
        )
        given = q.qkv if isinstance(q, Unrotated) else q
        end = ending(reader if rounds else None, len(given), config.num_heads * config.head_dim, given)
        rounding = Rounding(scale=end.args["input_scale"], row_scales=end.out_scale) if rounds else None
        out = end.out.view(len(given), config.num_heads, config.head_dim)
        if isinstance(q, Unrotated):
            self._rotate_and_attend(q, layer, paged, step, out, rounding)
        else:
            attend(q, paged, step, out, self._work, self._variants.prefill, rounding)
        return end.result

    def wanted_attention(self, layer: int, x: Tensor | Quantized, batch: Batch[Tensor]) -> Tensor | Quantized:
        """In long steps keys and values come of all rows, queries of the wanted ones alone."""
        splits = self._weights[f"layers.{layer}.qkv"].scheme in (Scheme.NONE, Scheme.FP8)
        if splits and isinstance(batch, CudaBatch) and asks_few(batch, self._max_seqs):
            choice = decode_choice(self._config, len(batch.logit_rows), self.caches[layer].dtype, len(self._table))
            if by_decode_cu(choice, self._dtype):
                return self._attend_wanted(layer, x, batch, choice)
        ops: Ops[Any] = self
        return self.wanted_rows(attention_block(ops, layer, x, batch), batch)

    def _attend_wanted(
        self, layer: int, x: Tensor | Quantized, batch: CudaBatch, choice: DecodeChoice
    ) -> Tensor | Quantized:
        heads, few = self._config.num_heads, asked(batch, choice)
        queries, others = split_rows(self._weights[f"layers.{layer}.qkv"], heads * self._config.head_dim)
        self._rope(layer, run_linear(x, others, Library(), out_dtype=self._dtype), batch, num_heads=0)
        q = run_linear(self.wanted_rows(x, batch), queries, Library(), out_dtype=self._dtype)
        q = self._rope(layer, q, few, num_heads=heads)
        return self.attention(layer, q, q, q, few)

    def _rotate_and_attend(
        self, q: Unrotated, layer: int, paged: Paged, step: CudaBatch, out: Tensor, rounding: Rounding | None
    ) -> None:
        rotation = Rotation(table=self._table, norms=self._head_norms(layer), eps=self._config.rms_norm_eps)
        if q.decoding is None:
            assert step.decode_choice is not None
            rotate_and_decode(q.qkv, rotation, paged, out, self._work, step.decode_choice, rounding)
        else:
            assert step.tiles is not None
            attend_decodes(q.decoding, paged, step, out, self._work, rounding)
            rotate_and_prefill(q.qkv, rotation, paged, step.query_starts, step.tiles, out, rounding)

    def silu_mul(self, gate_up: Tensor | Activated) -> Gated | Activated:
        return gate_up if isinstance(gate_up, Activated) else Gated(gate_up=gate_up)

    def wanted_rows(self, x: Tensor | Quantized, batch: Batch[Tensor]) -> Tensor | Quantized:
        if isinstance(batch, CudaBatch) and batch.all_rows:
            return x
        return x.rows(batch.logit_rows) if isinstance(x, Quantized) else x[batch.logit_rows]

    def logits(self, name: str, x: Tensor) -> Tensor:
        weight = self._weights[name]
        choice = self._pick(weight, x)
        if weight.scheme is Scheme.FP8:
            # A library's product of rounded rows comes in the compute dtype alone.
            out_dtype = self._dtype if isinstance(choice, Library) else torch.float32
            return run_linear(quantize_rows(x, weight), weight, choice, out_dtype=out_dtype).float()
        out_dtype = torch.float32 if x.dtype != torch.float16 else torch.float16
        return run_linear(x, weight, choice, out_dtype=out_dtype).float()


def usable(weight: Weight[Tensor], dtype: torch.dtype) -> Weight[Tensor]:
    """Floats in the compute dtype, scales in float32; NVFP4, which Hopper cannot multiply, as floats."""
    if weight.scheme is Scheme.NVFP4:
        return replace(weight, scheme=Scheme.NONE, data=dequantize(weight).to(dtype), weight_scale=None, weight_scale_2=None,
                       bias=None if weight.bias is None else weight.bias.to(dtype))  # fmt: skip
    floats: dict[str, Any] = {"data": weight.data.to(dtype)} if weight.scheme is Scheme.NONE else {}
    if weight.bias is not None:
        floats["bias"] = weight.bias.to(dtype)
    for part in ("weight_scale", "input_scale", "pre_scale"):
        if (tensor := getattr(weight, part)) is not None:
            floats[part] = tensor.float().reshape(1) if part == "input_scale" else tensor.float().contiguous()
    return replace(weight, **floats)


def readers(config: ModelConfig, weights: Mapping[str, Weight[Tensor]]) -> dict[str, Weight[Tensor]]:
    """The linear that reads each norm's output."""
    pairs = {"input_norm": "qkv", "post_norm": "gate_up"}
    return {
        f"layers.{layer}.{norm}": weights[f"layers.{layer}.{linear}"]
        for layer in range(config.num_layers)
        for norm, linear in pairs.items()
    }


def down_of(gate_up: str) -> str:
    """The linear that reads what SiLU makes of this one's output."""
    return gate_up.removesuffix("gate_up") + "down"


def kv_scales(weight: Weight[Tensor] | None) -> tuple[float, float]:
    if weight is None:
        return 1.0, 1.0
    key, value = weight.data.float().tolist()
    return key, value


def check_supported(config: ModelConfig) -> None:
    """Raises UnsupportedModelError for a head dim that the attention kernels do not take."""
    if config.head_dim not in (32, 64, 96, 128, 256):
        raise UnsupportedModelError(
            f"The CUDA kernels take head dims 32, 64, 96, 128 and 256; this model has {config.head_dim}.",
            mend="Build with TARGET=cpu.",
        )


def classified(batch: Batch[Tensor], config: ModelConfig, cache: Tensor) -> CudaBatch:
    """Any batch as a CudaBatch: everything as prompts. Waits for the GPU; programs build theirs from the plan instead."""
    counts = batch.query_starts.diff().tolist()
    group = config.num_heads // config.num_kv_heads
    pairs = plan_tiles(counts, prefill_rows(group, config.head_dim) // group)
    seqs, starts = (torch.tensor(column, dtype=torch.int32, device=cache.device) for column in zip(*pairs, strict=True))
    fields = {name: getattr(batch, name) for name in Batch.__dataclass_fields__}
    return CudaBatch(**fields, tiles=Tiles(seqs=seqs, starts=starts))
