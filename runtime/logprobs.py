"""Log-probabilities of chosen tokens under the raw distribution. Knows tensors, not requests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ingot.runtime.plan import TokenLogprobs

LEAST = -9999.0  # stands for minus infinity, which JSON cannot say


def token_logprobs(logits: Tensor, tokens: Tensor, alternatives: Sequence[int]) -> list[TokenLogprobs]:
    """(n, V) and (n,) -> one per row, with the row's number of best alternatives. Ties share the better rank."""
    logprobs = torch.nan_to_num(logits.float().log_softmax(-1), nan=LEAST, neginf=LEAST)
    chosen = logprobs.gather(1, tokens.unsqueeze(1))
    ranks = (logprobs > chosen).sum(-1) + 1
    values, ids = logprobs.topk(min(max(alternatives), logits.shape[-1]), dim=-1)
    rows = zip(chosen.squeeze(1).tolist(), ranks.tolist(), ids.tolist(), values.tolist(), alternatives, strict=True)
    return [
        TokenLogprobs(logprob=logprob, rank=rank, top=list(zip(best[:k], best_values[:k], strict=True)))
        for logprob, rank, best, best_values, k in rows
    ]
