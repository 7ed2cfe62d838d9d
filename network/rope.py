"""Rotary position embedding's frequencies, as plain floats, for whoever turns them into tables (arXiv:2104.09864)."""

from __future__ import annotations

import math

from ingot.network.config import Llama3Rope, ModelConfig


def inverse_frequencies(config: ModelConfig) -> tuple[float, ...]:
    """Radians per position of each of the head_dim / 2 pairs (i, i + head_dim / 2)."""
    plain = [config.rope_theta ** (-2 * i / config.head_dim) for i in range(config.head_dim // 2)]
    if config.rope_scaling is None:
        return tuple(plain)
    return tuple(llama3_scaled(frequency, config.rope_scaling) for frequency in plain)


def llama3_scaled(frequency: float, rope: Llama3Rope) -> float:
    """Long wavelengths are stretched by `factor`, short ones kept, those between interpolated.

    From "rope_type": "llama3" of transformers' modeling_rope_utils.py.
    """
    turns = rope.original_max_position * frequency / (2 * math.pi)  # of this pair over the original context
    if turns > rope.high_freq_factor:
        return frequency
    if turns < rope.low_freq_factor:
        return frequency / rope.factor
    smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    return (1 - smooth) * frequency / rope.factor + smooth * frequency
