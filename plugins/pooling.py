"""One vector of a text's hidden states."""

from __future__ import annotations

from torch import Tensor

POOLINGS = ("mean", "last", "cls")


def pooled(hidden: Tensor, pooling: str) -> Tensor:
    """(T, C) of one whole text -> (C,) in float32: the mean of all tokens, or the last one's, or the first one's."""
    match pooling:
        case "mean":
            return hidden.float().mean(0)
        case "last":
            return hidden[-1].float()
        case "cls":
            return hidden[0].float()
    raise ValueError(f"no pooling is called {pooling!r}")
