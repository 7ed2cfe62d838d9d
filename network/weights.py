"""Canonical weight names and what a weight is. A checkpoint's own names are mapped to these once, by the builder.

    embed  lm_head  final_norm
    layers.N.input_norm  .qkv  .q_norm  .k_norm  .o  .post_norm  .gate_up  .down  .kv_scale

In a safetensors file a weight is spread over `<name>.weight` and, where it has them, `<name>.bias`,
`<name>.weight_scale`, `<name>.weight_scale_2`, `<name>.input_scale`, `<name>.pre_scale`. Only `layers.N.kv_scale`, the
float32 (2,) scales of an FP8 cache's keys and values, is a tensor under its own name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic

from ingot.network.config import ModelConfig
from ingot.network.ops import T

LINEARS = ("qkv", "o", "gate_up", "down")
INT4_GROUP = 128
NVFP4_GROUP = 16


class Scheme(StrEnum):
    """How a linear's weight (out N, in K) is stored and what its input becomes before the product.

    NONE   float (N, K)                                                          input untouched
    FP8    float8_e4m3fn (N, K), weight_scale f32 (N,)                           input e4m3: by input_scale, else per token
    INT8   int8 (N, K), weight_scale f32 (N,)                                    input int8: by input_scale, else per token
    INT4   uint8 (N, K/2), low nibble = even k, two's complement; weight_scale f32 (N, K/128)   input untouched
    NVFP4  uint8 (N, K/2), low nibble = even k, e2m1; weight_scale e4m3 (N, K/16), weight_scale_2 f32 (N,)
           input e2m1 in blocks of 16 where the hardware has it, else untouched
    """

    NONE = "none"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"
    NVFP4 = "nvfp4"

    @classmethod
    def of(cls, quant: str) -> Scheme:
        """What a build's `--quant` stores: fp8-dynamic is fp8 without input_scale."""
        return cls(quant.removesuffix("-dynamic"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight(Generic[T]):
    """One weight with everything needed to use it. Value = data * weight_scale (* weight_scale_2), then + bias."""

    scheme: Scheme
    data: T
    weight_scale: T | None = None
    weight_scale_2: T | None = None
    input_scale: T | None = None  # scalar f32: x / input_scale is what gets rounded
    pre_scale: T | None = None  # (K,): x is multiplied by it first (SmoothQuant, AWQ)
    bias: T | None = None  # (N,)


def linear_shape(config: ModelConfig, kind: str) -> tuple[int, int]:
    """(out, in) of a layer's linear `kind`, one of LINEARS."""
    heads = config.num_heads * config.head_dim
    kv = config.num_kv_heads * config.head_dim
    shapes = {
        "qkv": (heads + 2 * kv, config.hidden_size),
        "o": (config.hidden_size, heads),
        "gate_up": (2 * config.intermediate_size, config.hidden_size),
        "down": (config.hidden_size, config.intermediate_size),
    }
    return shapes[kind]
