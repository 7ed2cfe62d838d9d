"""Logits of more rows than a plan gives at once. Knows nothing of how they are computed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def in_chunks(logits: Callable[[Tensor], Tensor], rows: Tensor, most: int) -> Tensor:
    """logits(part of rows (R,)) -> (part, V), which the next call overwrites; together (R, V)."""
    if len(rows) <= most:
        return logits(rows)
    return torch.cat([logits(part).clone() for part in rows.split(most)])
