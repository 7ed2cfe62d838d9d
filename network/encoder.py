"""The encoder on one screen: bidirectional attention and post-norm, as BERT (arXiv:1810.04805), and the words it is written in.

Shape letters are those of ops.py: T tokens of the step, S sequences, C hidden size, F MLP width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol

from ingot.network.encoder_config import EncoderConfig
from ingot.network.ops import T


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderBatch(Generic[T]):
    """Whole texts, flat and ragged: sequence s owns rows query_starts[s] : query_starts[s + 1]."""

    token_ids: T  # (T,)
    positions: T  # (T,)      rows of the table of positions
    token_types: T  # (T,)    which segment a token is of; 0 for single texts
    query_starts: T  # (S + 1,)


class EncoderOps(Protocol[T]):
    """One method per operation; `name` is a canonical weight name (see encoder_names.py)."""

    def embedding(self, name: str, ids: T) -> T:
        """(T,) -> (T, C)."""
        ...

    def add(self, a: T, b: T) -> T: ...

    def layer_norm(self, name: str, x: T) -> T:
        """(T, C) -> (T, C) (arXiv:1607.06450), with weight and bias."""
        ...

    def linear(self, name: str, x: T) -> T:
        """(T, in) -> (T, out), with bias."""
        ...

    def attention(self, qkv: T, batch: EncoderBatch[T]) -> T:
        """(T, 3C) -> (T, C): every token sees all of its own sequence."""
        ...

    def activation(self, x: T) -> T:
        """(T, F) -> (T, F), the configuration's."""
        ...


def encoder(ops: EncoderOps[T], config: EncoderConfig, batch: EncoderBatch[T]) -> T:
    """Hidden states (T, C) after the last layer."""
    x = encoder_input(ops, batch)
    for layer in range(config.num_layers):
        x = encoder_layer(ops, layer, x, batch)
    return x


def encoder_input(ops: EncoderOps[T], batch: EncoderBatch[T]) -> T:
    x = ops.add(ops.embedding("embed", batch.token_ids), ops.embedding("types", batch.token_types))
    return ops.layer_norm("embed_norm", ops.add(x, ops.embedding("positions", batch.positions)))


def encoder_layer(ops: EncoderOps[T], layer: int, x: T, batch: EncoderBatch[T]) -> T:
    ours = f"layers.{layer}"
    attended = ops.linear(f"{ours}.o", ops.attention(ops.linear(f"{ours}.qkv", x), batch))
    x = ops.layer_norm(f"{ours}.attention_norm", ops.add(attended, x))
    widened = ops.activation(ops.linear(f"{ours}.up", x))
    return ops.layer_norm(f"{ours}.output_norm", ops.add(ops.linear(f"{ours}.down", widened), x))
