"""Optimization profiles: least, usual and most of each of the graph's dynamic dimensions, from an engine's limits."""

from __future__ import annotations

from ingot.manifest import Limits
from ingot.network.config import ModelConfig

Profile = dict[str, tuple[int, int, int]]
USUAL_TOKENS = 64  # the batch kernels are picked for
USUAL_PAGES = 1024
MOST_ELEMENTS = 2**31 - 1  # of one tensor, a layer's whole cache


def rtx_profiles(limits: Limits) -> list[Profile]:
    """One for all steps: TensorRT-RTX compiles kernels for the shapes it meets."""
    tokens, rows = limits.max_num_batched_tokens, min(limits.max_num_seqs, limits.max_num_batched_tokens)
    return [{"tokens": usually(USUAL_TOKENS, tokens), "rows": usually(USUAL_TOKENS, rows)}]


def tensorrt_profiles(limits: Limits, config: ModelConfig) -> list[Profile]:
    """Decode steps, one token for every sequence; then all others, picked for steps full of prompts."""
    seqs, tokens = limits.max_num_seqs, limits.max_num_batched_tokens
    per_sequence = -(-limits.max_model_len // limits.page_size)
    page = 2 * config.num_kv_heads * limits.page_size * config.head_dim
    both = {"pages_per_sequence": (per_sequence,) * 3, "pages": usually(USUAL_PAGES, MOST_ELEMENTS // page)}
    least, usual, most = usually(USUAL_TOKENS, seqs)
    sequences = {
        "sequences": (least, usual, most),
        "sequences_plus_1": (least + 1, usual + 1, most + 1),
        "rows": (least, usual, most),
    }
    return [{"tokens": (least, usual, most)} | sequences | both, {"tokens": usually(tokens, tokens)} | sequences | both]


def usually(usual: int, most: int) -> tuple[int, int, int]:
    return (1, min(usual, most), most)
