"""Drawing tokens from the logits of captured decode steps, captured as well. Knows rows of numbers, no requests.

A step's rows take one of three graphs, by the most that any of them asks for; each row's token is picked from the path of its
kind, so that it is what runtime/sampler.py draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ingot.runtime.draw import draw, draw_top_k, draw_truncated, finite
from ingot.runtime.programs.graphs import Captured
from ingot.runtime.programs.model_step import Sampled
from ingot.runtime.sampler import Draws, Kind

FIELDS = 6  # of a row: temperature, top_k, top_p, min_p, noise, kind
MOST_TOP_K = 128  # of rows that the graphs take


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    tokens: Tensor  # (bucket,) int64


Capture = Callable[[Callable[[], Drawn]], Captured[Drawn]]


class DrawGraphs:
    """By decode bucket and the last Kind that is drawn. All read one buffer."""

    def __init__(self, most_rows: int, device: torch.device) -> None:
        self.most_rows = most_rows
        self._inputs = torch.ones(FIELDS * most_rows, dtype=torch.float32, device=device)
        self._graphs: dict[tuple[int, Kind], Captured[Drawn]] = {}

    def capture(self, bucket: int, decoded: Sampled, capture: Capture) -> None:
        """`decoded`: what the bucket's step leaves, at the same place after every replay."""
        for last in (Kind.TRUNCATED, Kind.TOP_K, Kind.PLAIN):
            self._graphs[bucket, last] = capture(lambda last=last: self._step(bucket, decoded, last))  # type: ignore[misc]

    def takes(self, bucket: int, draws: Draws) -> bool:
        return (bucket, draws.last) in self._graphs and draws.most_top_k <= MOST_TOP_K

    def run(self, bucket: int, draws: Draws) -> Tensor:
        """Tokens (R,) int64 of the step that ran last, until the next run."""
        count = len(draws.noise)
        inputs = np.ones((FIELDS, bucket), np.float32)
        inputs[5] = Kind.GREEDY
        inputs[:4, :count] = draws.numbers.T
        inputs[4, :count], inputs[5, :count] = draws.noise, draws.kinds
        flat = torch.from_numpy(inputs.reshape(-1)).pin_memory()
        self._inputs[: FIELDS * bucket].copy_(flat, non_blocking=True)
        captured = self._graphs[bucket, draws.last]
        captured.replay()
        return captured.out.tokens[:count]

    def clear(self) -> None:
        self._graphs.clear()

    def _step(self, bucket: int, decoded: Sampled, last: Kind) -> Drawn:
        temperature, top_k, top_p, min_p, noise, kinds = self._inputs[: FIELDS * bucket].view(FIELDS, bucket).unbind()
        warm = finite(decoded.logits) / temperature.unsqueeze(1)
        tokens = torch.where(kinds == Kind.PLAIN, draw(warm, noise), decoded.tokens.long())
        if last >= Kind.TOP_K:
            best = draw_top_k(warm, top_k.long().clamp_min(1), MOST_TOP_K, top_p, min_p, noise)
            tokens = torch.where(kinds == Kind.TOP_K, best, tokens)
        if last >= Kind.TRUNCATED:
            tokens = torch.where(kinds == Kind.TRUNCATED, draw_truncated(warm, top_p, min_p, noise), tokens)
        return Drawn(tokens=tokens)
