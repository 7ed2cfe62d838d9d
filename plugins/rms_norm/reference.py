"""RMS norm (arXiv:1910.07467) with transformers' order of rounding: normalize in float32, round, then weight."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """(..., C) and (C,) -> (..., C) in x's dtype."""
    return weight * functional.rms_norm(x.float(), (x.shape[-1],), None, eps).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(norm(x + residual), x + residual), both rounded to x's dtype."""
    total = residual + x
    return rms_norm(total, weight, eps), total
