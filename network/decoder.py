"""The architecture on one screen: every family ingot serves is this function with another configuration."""

from __future__ import annotations

from ingot.network.config import ModelConfig
from ingot.network.ops import Batch, Ops, T


def decoder(ops: Ops[T], config: ModelConfig, batch: Batch[T]) -> T:
    """Logits (R, V) in float32 of the rows that `batch.logit_rows` asks for. Extends the KV cache by the batch's tokens.

    Of rows that no logits are asked of, the last layer's keys and values are the end: what follows would be read by nobody.
    """
    return ops.logits("lm_head", layers(ops, config, batch, every_row=False))


def hidden_states(ops: Ops[T], config: ModelConfig, batch: Batch[T]) -> T:
    """(T, C) after the last norm, of every token of the batch. Extends the KV cache as `decoder` does."""
    return layers(ops, config, batch, every_row=True)


def layers(ops: Ops[T], config: ModelConfig, batch: Batch[T], *, every_row: bool) -> T:
    residual = ops.embedding("embed", batch.token_ids)
    x = ops.rms_norm("layers.0.input_norm", residual)
    for layer in range(config.num_layers):
        if layer + 1 == config.num_layers and not every_row:
            x, residual = ops.wanted_attention(layer, x, batch), ops.wanted_rows(residual, batch)
        else:
            x = attention_block(ops, layer, x, batch)
        x = ops.linear(f"layers.{layer}.o", x)
        x, residual = ops.add_rms_norm(f"layers.{layer}.post_norm", x, residual)
        x = mlp_block(ops, layer, x)
        x, residual = ops.add_rms_norm(norm_after(config, layer), x, residual)
    return x


def attention_block(ops: Ops[T], layer: int, x: T, batch: Batch[T]) -> T:
    """(T, C) -> (T, H * D), before the o projection."""
    q, k, v = ops.rope(layer, ops.linear(f"layers.{layer}.qkv", x), batch)
    return ops.attention(layer, q, k, v, batch)


def mlp_block(ops: Ops[T], layer: int, x: T) -> T:
    return ops.linear(f"layers.{layer}.down", ops.silu_mul(ops.linear(f"layers.{layer}.gate_up", x)))


def norm_after(config: ModelConfig, layer: int) -> str:
    """The norm that closes a layer is the next layer's input norm, so that one kernel adds and normalizes."""
    return "final_norm" if layer + 1 == config.num_layers else f"layers.{layer + 1}.input_norm"
