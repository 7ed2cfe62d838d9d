"""Log-probabilities of prompt tokens: which rows want them, and what a step's logits say. The same on every device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ingot.runtime.logprobs import Measured, measure
from ingot.runtime.plan import Arrival, Slice, TokenLogprobs
from ingot.runtime.transfer import put


@dataclass(frozen=True, slots=True)
class ScoredPrompt:
    """A row whose prompt's log-probabilities are wanted, with that many alternatives."""

    tokens: list[int]
    alternatives: int


class PromptScores:
    def __init__(self) -> None:
        self._prompts: dict[int, ScoredPrompt] = {}  # by row

    def admit(self, arrival: Arrival) -> None:
        self.release(arrival.row)
        if arrival.params.prompt_logprobs is not None:
            self._prompts[arrival.row] = ScoredPrompt(arrival.prompt_tokens, arrival.params.prompt_logprobs)

    def release(self, row: int) -> None:
        self._prompts.pop(row, None)

    def wanted(self, slices: list[Slice]) -> list[tuple[int, int]]:
        """(slice, n) for each whose first n tokens are followed by a prompt token that is to be scored."""
        return [(i, n) for i, part in enumerate(slices) if (n := self._count(part))]

    def read(
        self, slices: list[Slice], scored: list[tuple[int, int]], logits: Tensor
    ) -> list[list[TokenLogprobs] | None]:
        """`measure` read at once, on a CPU; by slice."""
        found: list[list[TokenLogprobs] | None] = [None] * len(slices)
        for i, measured in self.measure(slices, scored, logits):
            found[i] = measured.read()
        return found

    def measure(self, slices: list[Slice], scored: list[tuple[int, int]], logits: Tensor) -> list[tuple[int, Measured]]:
        """(slice, what is on its way to the host); `logits` (sum of n, V) are those that `scored`, what wanted() gave, asked for."""
        found, first = [], 0
        for i, n in scored:
            found.append((i, self._measure(slices[i], logits[first : first + n])))
            first += n
        return found

    def _count(self, part: Slice) -> int:
        prompt = self._prompts.get(part.row)
        return 0 if prompt is None else max(0, min(len(part.tokens), len(prompt.tokens) - 1 - part.start))

    def _measure(self, part: Slice, logits: Tensor) -> Measured:
        prompt = self._prompts[part.row]
        followers = prompt.tokens[part.start + 1 : part.start + 1 + len(logits)]
        return measure(logits, put(torch.tensor(followers), logits.device), [prompt.alternatives] * len(logits))
