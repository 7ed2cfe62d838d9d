"""silu(gate) * up, rounding after each as transformers does."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def silu_mul(gate_up: Tensor) -> Tensor:
    """(T, 2F) -> (T, F)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up
