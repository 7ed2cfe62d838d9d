"""An encoder's checkpoint as the engine's canonical weights, tensor by tensor. Knows names and shapes, not arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from ingot.builder.checkpoint import FETCH_AGAIN, Checkpoint
from ingot.builder.shards import ShardWriter
from ingot.errors import CheckpointError
from ingot.network.encoder_config import ENCODERS, EncoderConfig
from ingot.network.encoder_names import encoder_shape, encoder_sources, has_bias

OLD_SUFFIXES = {"weight": "gamma", "bias": "beta"}  # of norms in checkpoints of TensorFlow's time
# Heads, and a table that only counts: what embeddings do not need. All else must find its place.
LEFT_OUT = ("pooler.", "cls.", "lm_head.", "embeddings.position_ids", "embeddings.token_type_ids")


def pack_encoder(
    checkpoint: Checkpoint, config: EncoderConfig, dtype: torch.dtype, folder: Path, advance: Callable[[int], None]
) -> None:
    """Writes weights/*.safetensors of an engine. `advance` is told the bytes written. Raises CheckpointError for leftovers."""
    reader = Reader(checkpoint, config, dtype)
    with ShardWriter(folder) as shards:
        for name, tensor in reader.tensors():
            shards.add(name, tensor)
            advance(tensor.numel() * tensor.element_size())
        if unread := reader.unread():
            raise CheckpointError(
                f"{checkpoint.folder} holds {len(unread)} tensors that a {config.family} encoder has no place for: "
                f"{', '.join(unread[:4])}.",
                mend="config.json and the weights are of different models, or an adapter is unmerged: merge it first.",
            )


class Reader:
    """Remembers what was read, to name in the end what nobody asked for."""

    def __init__(self, checkpoint: Checkpoint, config: EncoderConfig, dtype: torch.dtype) -> None:
        """Raises CheckpointError where there are no embeddings under any of the family's names."""
        self._checkpoint, self._config, self._dtype = checkpoint, config, dtype
        self._used: set[str] = set()
        known = ENCODERS[config.family].prefixes
        found = [one for one in known if f"{one}embeddings.word_embeddings.weight" in checkpoint.tensors]
        if not found:
            raise CheckpointError(f"{checkpoint.folder} lacks embeddings.word_embeddings.weight.", mend=FETCH_AGAIN)
        self._prefix = found[0]

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, modules in encoder_sources(self._config).items():
            shape = encoder_shape(self._config, name)
            yield f"{name}.weight", self._joined(name, modules, "weight", shape)
            if has_bias(name):
                yield f"{name}.bias", self._joined(name, modules, "bias", shape[:1])

    def unread(self) -> list[str]:
        left = set(self._checkpoint.tensors) - self._used
        return sorted(name for name in left if not name.removeprefix(self._prefix).startswith(LEFT_OUT))

    def _joined(self, name: str, modules: tuple[str, ...], part: str, shape: tuple[int, ...]) -> torch.Tensor:
        tensor = torch.cat([self._read(module, part) for module in modules])
        if tuple(tensor.shape) != shape or not tensor.is_floating_point() or tensor.element_size() < 2:
            raise CheckpointError(
                f"{name}.{part} is {tensor.dtype} {tuple(tensor.shape)}; config.json asks for floats {shape}.",
                mend="config.json and the weights are of different models: fetch the checkpoint again.",
            )
        return tensor.to(self._dtype)

    def _read(self, module: str, part: str) -> torch.Tensor:
        spellings = [f"{self._prefix}{module}.{part}"]
        if module.endswith("LayerNorm"):
            spellings.append(f"{self._prefix}{module}.{OLD_SUFFIXES[part]}")
        found = next((name for name in spellings if name in self._checkpoint.tensors), None)
        if found is None:
            raise CheckpointError(f"{self._checkpoint.folder} lacks {spellings[0]}.", mend=FETCH_AGAIN)
        self._used.add(found)
        return self._checkpoint.read(found)
