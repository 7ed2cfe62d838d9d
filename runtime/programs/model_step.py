"""What a GPU program's model is: a batch in, logits out. Knows tensors, no plans and no graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ingot.plugins.attention.step import CudaBatch

Model = Callable[[CudaBatch], Tensor]  # logits (R, V) in float32; extends the caches it was made with
OpenModel = Callable[[CudaBatch], tuple[Tensor, Tensor]]  # the same, and the hidden states (T, C) they were made of


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """Logits (R, V), their most likely tokens (R,) and, of mixed steps of an open model, hidden states (T, C), on the GPU."""

    logits: Tensor
    tokens: Tensor
    hidden: Tensor | None = None
