"""A model's configuration: what Hugging Face's config.json says, checked, in ingot's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Rope:
    """Llama 3.1's frequency scaling ("rope_type": "llama3" in transformers' modeling_rope_utils.py)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Everything the decoder and its interpreters ask about a model."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Llama3Rope | None = None
    windows: tuple[int, ...]  # sliding window of each layer in tokens, itself included; 0 = full attention
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False  # RMS norm over head_dim on q and k, before RoPE
    tie_embeddings: bool = False
    dtype: str = "bfloat16"  # of the checkpoint
    eos_token_ids: tuple[int, ...] = ()

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> ModelConfig:
        """Reads a config.json. Raises UnsupportedModelError naming the first field ingot cannot honour."""
        from ingot.network.families import read_hf

        return read_hf(hf)

    @property
    def kv_elements_per_token(self) -> int:
        """KV elements one token adds over all layers; times the KV dtype's size gives bytes."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim
