"""Which tokens each row has read and written, and the penalties on seeing them again. Knows tensors, not requests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ingot.runtime.transfer import put


class SeenTokens:
    """Two tables (rows, V), made when the first row begins: most engines never see a penalty."""

    def __init__(self, max_num_seqs: int, vocab_size: int, device: torch.device) -> None:
        self._shape = (max_num_seqs, vocab_size)
        self._outputs = torch.empty((0, vocab_size), dtype=torch.int32, device=device)  # how often written
        self._prompts = torch.empty((0, vocab_size), dtype=torch.bool, device=device)  # whether read

    def begin(self, row: int, prompt: Sequence[int], output: Sequence[int]) -> None:
        if not len(self._outputs):
            self._outputs = self._outputs.new_zeros(self._shape)
            self._prompts = self._prompts.new_zeros(self._shape)
        read, written = (
            put(torch.tensor(tokens, dtype=torch.int64), self._outputs.device) for tokens in (prompt, output)
        )
        self._prompts[row].zero_().index_fill_(0, read, True)
        self._outputs[row].zero_().index_add_(0, written, torch.ones_like(written, dtype=torch.int32))

    def add(self, rows: Tensor, tokens: Tensor) -> None:
        """One more token (n,) written by each of `rows` (n,)."""
        self._outputs[rows, tokens] += 1

    def penalize(self, logits: Tensor, rows: Tensor, penalties: Tensor) -> Tensor:
        """logits (n, V) of `rows` (n,) under their repetition, presence and frequency penalties (n, 3).

        Repetition (arXiv:1909.05858) looks at prompt and output, presence and frequency at the output, as OpenAI's do.
        """
        counts = self._outputs[rows]
        repetition, presence, frequency = penalties.unsqueeze(-1).unbind(1)
        repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
        logits = torch.where((counts > 0) | self._prompts[rows], repeated, logits)
        return logits - frequency * counts - presence * (counts > 0)
