"""Log-probabilities of chosen tokens under the raw distribution. Knows tensors, not requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ingot.runtime.plan import TokenLogprobs
from ingot.runtime.transfer import fetch

LEAST = -9999.0  # stands for minus infinity, which JSON cannot say


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What there is to say of n tokens, on its way to the host."""

    chosen: Tensor  # (n,) log-probabilities
    ranks: Tensor  # (n,)
    ids: Tensor  # (n, m) the best tokens
    values: Tensor  # (n, m) and their log-probabilities
    alternatives: Sequence[int]  # how many of them each row asks for

    def read(self) -> list[TokenLogprobs]:
        """One per row. To be called once the stream has come past `measure`."""
        rows = zip(
            self.chosen.tolist(),
            self.ranks.tolist(),
            self.ids.tolist(),
            self.values.tolist(),
            self.alternatives,
            strict=True,
        )
        return [
            TokenLogprobs(logprob=logprob, rank=rank, top=list(zip(best[:k], best_values[:k], strict=True)))
            for logprob, rank, best, best_values, k in rows
        ]


def measure(logits: Tensor, tokens: Tensor, alternatives: Sequence[int]) -> Measured:
    """(n, V) and (n,), with each row's number of best alternatives. Waits for nothing."""
    logprobs = torch.nan_to_num(logits.float().log_softmax(-1), nan=LEAST, neginf=LEAST)
    chosen = logprobs.gather(1, tokens.unsqueeze(1))
    values, ids = logprobs.topk(min(max(alternatives), logits.shape[-1]), dim=-1)
    return Measured(
        chosen=fetch(chosen.squeeze(1)),
        ranks=fetch((logprobs > chosen).sum(-1) + 1),
        ids=fetch(ids),
        values=fetch(values),
        alternatives=alternatives,
    )


def token_logprobs(logits: Tensor, tokens: Tensor, alternatives: Sequence[int]) -> list[TokenLogprobs]:
    """`measure` read at once: of logits on a CPU. Ties share the better rank."""
    return measure(logits, tokens, alternatives).read()
