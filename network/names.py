"""Where Hugging Face checkpoints of all families keep what ingot calls by its canonical names. Plain data.

A source is a module's name: its tensors are `<source>.weight`, `<source>.bias` and whatever scales quantizers put beside them.
"""

from __future__ import annotations

from ingot.network.config import ModelConfig


def sources(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Canonical weight name -> modules whose rows, concatenated in this order, make the weight.

    `lm_head` is absent where the embedding is tied to it.
    """
    found: dict[str, tuple[str, ...]] = {"embed": ("model.embed_tokens",)}
    for layer in range(config.num_layers):
        found |= layer_sources(config, layer)
    found["final_norm"] = ("model.norm",)
    if not config.tie_embeddings:
        found["lm_head"] = ("lm_head",)
    return found


def layer_sources(config: ModelConfig, layer: int) -> dict[str, tuple[str, ...]]:
    """`sources` of one decoder layer."""
    theirs, ours = f"model.layers.{layer}", f"layers.{layer}"
    found: dict[str, tuple[str, ...]] = {
        f"{ours}.input_norm": (f"{theirs}.input_layernorm",),
        f"{ours}.qkv": tuple(f"{theirs}.self_attn.{part}_proj" for part in ("q", "k", "v")),
        f"{ours}.o": (f"{theirs}.self_attn.o_proj",),
        f"{ours}.post_norm": (f"{theirs}.post_attention_layernorm",),
        f"{ours}.gate_up": (f"{theirs}.mlp.gate_proj", f"{theirs}.mlp.up_proj"),
        f"{ours}.down": (f"{theirs}.mlp.down_proj",),
    }
    if config.qk_norm:
        found[f"{ours}.q_norm"] = (f"{theirs}.self_attn.q_norm",)
        found[f"{ours}.k_norm"] = (f"{theirs}.self_attn.k_norm",)
    return found


def kv_scale_sources(layer: int) -> tuple[str, str]:
    """Tensors of the scales of an FP8 KV cache, keys' first, as ModelOpt and compressed-tensors name them."""
    attention = f"model.layers.{layer}.self_attn"
    return f"{attention}.k_proj.k_scale", f"{attention}.v_proj.v_scale"
