"""Token masks of the rows that follow a grammar. Knows tensors and matchers, not what a grammar is or how one is compiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ingot.runtime.draw import finite
from ingot.runtime.plan import Arrival, Slice, TokenMatcher
from ingot.runtime.transfer import put

FORBIDDEN = float("-inf")
LEAST_ALLOWED = -1e29  # an allowed token that nothing else wants still beats every forbidden one, at any temperature
WORD = 32  # tokens of one mask word


@dataclass(slots=True)
class Follower:
    matcher: TokenMatcher
    seen: int  # tokens of the sequence, prompt included, up to which the matcher has read
    stuck: bool = False  # a token came that the grammar does not allow: only an end may follow


class RowConstraints:
    """Matchers by row; rows without one cost nothing."""

    def __init__(self, vocab_size: int, eos_token_ids: Sequence[int], device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._words = -(-vocab_size // WORD)
        self._bits = torch.arange(WORD, dtype=torch.int32, device=device)
        end = torch.zeros(self._words * WORD, dtype=torch.bool)
        end[list(eos_token_ids)] = True
        self._end = end.to(device)
        self._followers: dict[int, Follower] = {}

    def admit(self, arrival: Arrival) -> None:
        """After a preemption the matcher is rebuilt from what the sequence has written."""
        self.release(arrival.row)
        if arrival.constraint is None:
            return
        follower = Follower(arrival.constraint.begin(), len(arrival.prompt_tokens))
        for token in arrival.output_tokens:
            self._accept(follower, token)
        self._followers[arrival.row] = follower

    def release(self, row: int) -> None:
        self._followers.pop(row, None)

    def follow(self, slices: Sequence[Slice]) -> None:
        """Takes in the newest token of every slice that samples; the scheduler never lets it be one that is on its way."""
        if not self._followers:
            return
        for part in slices:
            follower = self._followers.get(part.row)
            if follower is not None and part.samples and part.start + len(part.tokens) > follower.seen:
                self._accept(follower, part.tokens[-1])

    def mask(self, logits: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """logits (R, V) of `rows` (R,): those of forbidden tokens become -inf, in a copy; `logits` where no row has a grammar."""
        places = [place for place, row in enumerate(rows.tolist()) if row in self._followers] if self._followers else []
        if not places:
            return logits
        masks = torch.zeros((len(places), self._words), dtype=torch.int32)
        for i, place in enumerate(places):
            follower = self._followers[int(rows[place])]
            if not follower.stuck:
                follower.matcher.fill(masks, i)
        ended = (~masks.any(1)).nonzero().squeeze(1)  # the grammar has been followed to its end, or cannot be any more
        chosen = put(np.array(places, np.int64), self._device)
        allowed = (put(masks, self._device).unsqueeze(-1) >> self._bits & 1).bool().flatten(1)
        if len(ended):
            allowed[put(ended, self._device)] = self._end
        part = finite(logits[chosen]).clamp_min(LEAST_ALLOWED)
        part = part.masked_fill(~allowed[:, : self._vocab_size], FORBIDDEN)
        return logits.index_copy(0, chosen, part)

    def _accept(self, follower: Follower, token: int) -> None:
        follower.seen += 1
        follower.stuck = follower.stuck or not follower.matcher.accept(token)
