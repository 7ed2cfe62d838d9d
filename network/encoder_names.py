"""Canonical weight names of encoders, and where Hugging Face checkpoints of the BERT family keep them. Plain data.

    embed  positions  types  embed_norm
    layers.N.qkv  .o  .attention_norm  .up  .down  .output_norm

`<name>.weight` everywhere, and `<name>.bias` beside all but the three tables.
"""

from __future__ import annotations

from ingot.network.encoder_config import EncoderConfig

TABLES = ("embed", "positions", "types")


def encoder_sources(config: EncoderConfig) -> dict[str, tuple[str, ...]]:
    """Canonical weight name -> modules whose rows, concatenated in this order, make the weight; without the family's prefix."""
    found: dict[str, tuple[str, ...]] = {
        "embed": ("embeddings.word_embeddings",),
        "positions": ("embeddings.position_embeddings",),
        "types": ("embeddings.token_type_embeddings",),
        "embed_norm": ("embeddings.LayerNorm",),
    }
    for layer in range(config.num_layers):
        theirs, ours = f"encoder.layer.{layer}", f"layers.{layer}"
        found |= {
            f"{ours}.qkv": tuple(f"{theirs}.attention.self.{part}" for part in ("query", "key", "value")),
            f"{ours}.o": (f"{theirs}.attention.output.dense",),
            f"{ours}.attention_norm": (f"{theirs}.attention.output.LayerNorm",),
            f"{ours}.up": (f"{theirs}.intermediate.dense",),
            f"{ours}.down": (f"{theirs}.output.dense",),
            f"{ours}.output_norm": (f"{theirs}.output.LayerNorm",),
        }
    return found


def encoder_shape(config: EncoderConfig, name: str) -> tuple[int, ...]:
    """Of `<name>.weight`: (out, in) of a linear, (rows, C) of a table, (C,) of a norm."""
    width = config.hidden_size
    shapes = {
        "embed": (config.vocab_size, width),
        "positions": (config.position_rows, width),
        "types": (config.type_vocab_size, width),
        "qkv": (3 * width, width),
        "o": (width, width),
        "up": (config.intermediate_size, width),
        "down": (width, config.intermediate_size),
    }
    return shapes.get(name.rpartition(".")[2], (width,))


def has_bias(name: str) -> bool:
    return name not in TABLES
