"""Log-probabilities of chosen tokens under the raw distribution. Knows tensors, not requests.

Nothing is made of the vocabulary's size but exponentials to be summed: a token's log-probability is its logit less its row's
logsumexp, the best are looked for in the blocks that hold the greatest maxima, and only tokens outside them are ranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ingot.runtime.plan import TokenLogprobs
from ingot.runtime.transfer import fetch

LEAST = -9999.0  # stands for minus infinity, which JSON cannot say
BLOCK = 128  # tokens
CACHED = 1 << 17  # elements whose exponentials a CPU keeps in its cache


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
    logits = logits.float()
    values, ids = best(logits, min(max(1, *alternatives), logits.shape[-1]))
    chosen = logits.gather(1, tokens.unsqueeze(1))
    logprobs = torch.nan_to_num(torch.cat((chosen, values), dim=-1) - logsumexp(logits), nan=LEAST, neginf=LEAST)
    return Measured(
        chosen=fetch(logprobs[:, 0].contiguous()),
        ranks=fetch(ranks_of(logits, chosen, values)),
        ids=fetch(ids),
        values=fetch(logprobs[:, 1:].contiguous()),
        alternatives=alternatives,
    )


def token_logprobs(logits: Tensor, tokens: Tensor, alternatives: Sequence[int]) -> list[TokenLogprobs]:
    """`measure` read at once: of logits on a CPU. Ties share the better rank."""
    return measure(logits, tokens, alternatives).read()


def ranks_of(logits: Tensor, chosen: Tensor, values: Tensor) -> Tensor:
    """Of `chosen` (n, 1) among logits (n, V), whose best are `values`. Only a CPU looks which rows need a count: a GPU would
    have to be waited for, and counts them all in no time."""
    if logits.device.type != "cpu":
        return (logits > chosen).sum(-1) + 1
    ranks = (values > chosen).sum(-1) + 1
    far = (chosen < values[:, -1:]).squeeze(1).nonzero().squeeze(1)
    if len(far):
        ranks[far] = (logits[far] > chosen[far]).sum(-1) + 1
    return ranks


def best(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As logits.topk(k): k of the greatest values stand in the k blocks with the greatest maxima, or in the odd end."""
    n, width = logits.shape
    whole = width // BLOCK * BLOCK
    if whole < 2 * k * BLOCK:
        return logits.topk(k, dim=-1)
    blocks = logits[:, :whole].unflatten(1, (-1, BLOCK)).amax(-1).topk(k, dim=-1).indices
    places = (blocks.unsqueeze(-1) * BLOCK + torch.arange(BLOCK, device=logits.device)).flatten(1)
    end = torch.arange(whole, width, device=logits.device).expand(n, -1)
    places = torch.cat((places, end), dim=-1)
    values, which = logits.gather(1, places).topk(k, dim=-1)
    return values, places.gather(1, which)


def logsumexp(logits: Tensor) -> Tensor:
    """(n, V) -> (n, 1)."""
    rows = max(1, CACHED // logits.shape[-1]) if logits.device.type == "cpu" else len(logits)
    return torch.cat([part.logsumexp(-1, keepdim=True) for part in logits.split(rows)])
