"""Vectors of prompts that want one: sums over the slices a prompt is read in. The same on every device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ingot.errors import EngineError
from ingot.runtime.plan import Arrival, Slice


@dataclass(slots=True)
class Pool:
    """A row whose prompt wants a vector."""

    pooling: str  # mean | last
    total: Tensor | None = None  # (C,) float32, of the tokens read so far; mean alone


class Pools:
    def __init__(self) -> None:
        self._pools: dict[int, Pool] = {}  # by row

    def admit(self, arrival: Arrival) -> None:
        """A sequence that was preempted begins again: all its tokens are read again."""
        self.release(arrival.row)
        if arrival.pooling is None:
            return
        if arrival.pooling not in ("mean", "last"):
            raise EngineError(f"A decoder has no pooling {arrival.pooling!r}.", mend="Use mean or last.")
        self._pools[arrival.row] = Pool(arrival.pooling)

    def release(self, row: int) -> None:
        self._pools.pop(row, None)

    def wanted(self, slices: Sequence[Slice]) -> bool:
        return bool(self._pools) and any(part.row in self._pools for part in slices)

    def read(self, slices: Sequence[Slice], edges: Sequence[int], hidden: Tensor) -> dict[int, bytes]:
        """Vectors by seq_id of the prompts that end in this step. Slice i owns rows edges[i] : edges[i + 1] of `hidden` (T, C)."""
        found: dict[int, bytes] = {}
        for i, part in enumerate(slices):
            pool = self._pools.get(part.row)
            if pool is None:
                continue
            states = hidden[edges[i] : edges[i + 1]]
            if pool.pooling == "mean":
                total = states.sum(0, dtype=torch.float32)
                pool.total = total if pool.total is None else pool.total + total
            if part.samples:
                vector = states[-1].float() if pool.total is None else pool.total / (part.start + len(part.tokens))
                found[part.seq_id] = vector.cpu().numpy().tobytes()
        return found
