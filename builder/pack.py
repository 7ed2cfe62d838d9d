"""A checkpoint as the engine's canonical weights: fused, in the layouts programs read, layer by layer.

Knows the order and the folding of weights; refuses to know how they were quantized (linear.py) or what runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ingot.builder.checkpoint import Checkpoint
from ingot.builder.linear import Linear, fuse, read_module
from ingot.builder.shards import ShardWriter
from ingot.errors import CheckpointError
from ingot.network.config import ModelConfig
from ingot.network.names import kv_scale_sources, layer_sources, sources
from ingot.network.weights import LINEARS, Scheme, linear_shape
from ingot.plugins.quantize.reference import FP8_MAX, quantize_fp8, row_scale

# Tensors of a checkpoint that an engine derives or ties, so that leaving them unread loses nothing.
DERIVED = ("rotary_emb.inv_freq",)
NORM_BEFORE = {"qkv": "input_norm", "gate_up": "post_norm"}

Tensors = dict[str, torch.Tensor]


@dataclass(slots=True)
class Packer:
    """Reads a checkpoint as canonical weights. Remembers what was read, to name in the end what nobody asked for."""

    checkpoint: Checkpoint
    config: ModelConfig
    dtype: torch.dtype
    lm_head: str = "auto"  # or fp8
    used: set[str] = field(default_factory=set)

    def groups(self) -> Iterator[tuple[str, Callable[[], Tensors]]]:
        """What to pack, in order: a label and a call that reads it. Holding one group's tensors is all the memory needed."""
        yield "embed", lambda: self.vectors("embed")
        for layer in range(self.config.num_layers):
            yield f"layers.{layer}", lambda layer=layer: self.layer(layer)  # type: ignore[misc]
        yield "final_norm", lambda: self.vectors("final_norm")
        if not self.config.tie_embeddings:
            yield "lm_head", lambda: self.vectors("lm_head")

    def vectors(self, name: str) -> Tensors:
        """An embedding, a norm or the LM head, which alone is quantized where the recipe asks for it."""
        (module,) = sources(self.config)[name]
        weight = self._plain(f"{module}.weight", expected_shape(self.config, name))
        if name != "lm_head" or self.lm_head != "fp8":
            return {f"{name}.weight": weight}
        scale = row_scale(weight.float(), FP8_MAX)
        return {f"{name}.weight": quantize_fp8(weight.float(), scale.unsqueeze(1)), f"{name}.weight_scale": scale}

    def layer(self, layer: int) -> Tensors:
        """One decoder layer. pre_scales of qkv and gate_up are folded into the norm before, which feeds nothing else."""
        modules = layer_sources(self.config, layer)
        ours = f"layers.{layer}"
        linears = {kind: self._linear(f"{ours}.{kind}", kind, modules[f"{ours}.{kind}"]) for kind in LINEARS}
        found: Tensors = {}
        for name, source in modules.items():
            if name.rpartition(".")[2] not in LINEARS:
                found[f"{name}.weight"] = self._plain(f"{source[0]}.weight", expected_shape(self.config, name))
        for kind, norm in NORM_BEFORE.items():
            scale = linears[kind].pre_scale
            if scale is not None:
                weight = found[f"{ours}.{norm}.weight"]
                found[f"{ours}.{norm}.weight"] = (weight.float() * scale).to(self.dtype)
                linears[kind] = replace(linears[kind], pre_scale=None)
        for kind, linear in linears.items():
            found |= spread(f"{ours}.{kind}", linear)
        scales = self._kv_scales(layer)
        if scales is not None:
            found[f"{ours}.kv_scale"] = scales
        return found

    def unread(self) -> list[str]:
        """Tensors of the checkpoint that no group asked for."""
        tied = {"lm_head.weight"} if self.config.tie_embeddings else set()
        return sorted(name for name in set(self.checkpoint.tensors) - self.used - tied if not name.endswith(DERIVED))

    def _linear(self, name: str, kind: str, modules: tuple[str, ...]) -> Linear:
        linear = fuse(name, [read_module(self.checkpoint, module, self._read, self.dtype) for module in modules])
        columns = linear.data.shape[1] * (2 if linear.scheme in (Scheme.INT4, Scheme.NVFP4) else 1)
        if (linear.data.shape[0], columns) != linear_shape(self.config, kind):
            raise CheckpointError(
                f"{name} has shape {(linear.data.shape[0], columns)}; config.json asks for {linear_shape(self.config, kind)}.",
                mend="config.json and the weights are of different models: fetch the checkpoint again.",
            )
        return linear

    def _plain(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        tensor = self._read(name)
        if tensor is None:
            raise CheckpointError(f"{self.checkpoint.folder} lacks {name}.", mend="Fetch the checkpoint again.")
        if not tensor.is_floating_point() or tensor.element_size() < 2 or tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)}; config.json asks for floats {shape}.",
                mend="ingot keeps embeddings, norms and the LM head unquantized: quantize the original with --quant.",
            )
        return tensor.to(self.dtype)

    def _kv_scales(self, layer: int) -> torch.Tensor | None:
        """(2,) float32, keys' then values'; None where the checkpoint has none."""
        spellings = (kv_scale_sources(layer), tuple(f"model.layers.{layer}.self_attn.{kind}_scale" for kind in "kv"))
        for names in spellings:
            found = [self._read(name) for name in names]
            scales = [scale.float().reshape(()) for scale in found if scale is not None]
            if len(scales) == 2:
                return torch.stack(scales)
        return None

    def _read(self, name: str) -> torch.Tensor | None:
        if name not in self.checkpoint.tensors:
            return None
        self.used.add(name)
        return self.checkpoint.read(name)


def pack(packer: Packer, folder: Path, advance: Callable[[int], None]) -> None:
    """Writes weights/*.safetensors of an engine. `advance` is told the bytes written. Raises CheckpointError for leftovers."""
    with ShardWriter(folder) as shards:
        for _, read in packer.groups():
            for name, tensor in read().items():
                shards.add(name, tensor)
                advance(tensor.numel() * tensor.element_size())
        unread = packer.unread()
        if unread:
            raise CheckpointError(
                f"{packer.checkpoint.folder} holds {len(unread)} tensors that a {packer.config.family} model has no place for: "
                f"{', '.join(unread[:4])}.",
                mend="config.json and the weights are of different models, or an adapter is unmerged: merge it first.",
            )


def expected_shape(config: ModelConfig, name: str) -> tuple[int, ...]:
    kind = name.rpartition(".")[2]
    if kind in ("embed", "lm_head"):
        return (config.vocab_size, config.hidden_size)
    return (config.head_dim,) if kind in ("q_norm", "k_norm") else (config.hidden_size,)


def spread(name: str, linear: Linear) -> Mapping[str, torch.Tensor]:
    """A weight's tensors under the names network/weights.py gives them."""
    tensors = {
        "weight": linear.data,
        "bias": linear.bias,
        "weight_scale": linear.weight_scale,
        "weight_scale_2": linear.weight_scale_2,
        "input_scale": linear.input_scale,
        "pre_scale": linear.pre_scale,
    }
    return {f"{name}.{suffix}": tensor for suffix, tensor in tensors.items() if tensor is not None}
