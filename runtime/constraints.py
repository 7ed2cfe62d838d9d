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
BYTE = 8


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
        self._bits = torch.arange(BYTE, dtype=torch.uint8, device=device)
        end = np.zeros(self._words * WORD, bool)
        end[list(eos_token_ids)] = True
        self._end = torch.from_numpy(
            np.packbits(end, bitorder="little").view(np.int32)
        )  # the mask after a grammar's end
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

    def hold(self, rows: NDArray[np.int64]) -> bool:
        """Whether one of `rows` has a grammar."""
        return bool(self._followers) and any(row in self._followers for row in rows.tolist())

    def mask(self, logits: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """logits (R, V) of `rows` (R,): those of forbidden tokens become -inf, in a copy; `logits` where no row has a grammar."""
        if not self._followers:
            return logits
        found = {place: self._followers[row] for place, row in enumerate(rows.tolist()) if row in self._followers}
        if not found:
            return logits
        masks = torch.zeros((len(found), self._words), dtype=torch.int32)
        for i, follower in enumerate(found.values()):
            if not follower.stuck:
                follower.matcher.fill(masks, i)
        ended = (~masks.any(1)).nonzero().squeeze(1)  # the grammar has been followed to its end, or cannot be any more
        if len(ended):
            masks[ended] = self._end
        forbidden = self._spread(~masks)[:, : self._vocab_size]
        if len(found) == len(rows):
            return finite(logits).clamp_min_(LEAST_ALLOWED).masked_fill_(forbidden, FORBIDDEN)
        chosen = put(np.array(list(found), np.int64), self._device)
        part = finite(logits[chosen]).clamp_min_(LEAST_ALLOWED).masked_fill_(forbidden, FORBIDDEN)
        return logits.index_copy(0, chosen, part)

    def _spread(self, masks: Tensor) -> Tensor:
        """Words (n, W) on the host -> bool (n, 32 W) beside the logits. A GPU is sent the bits: an eighth of the bytes."""
        if self._device.type == "cpu":
            bits = np.unpackbits(masks.numpy().view(np.uint8), axis=1, bitorder="little")
            return torch.from_numpy(bits).view(torch.bool)
        packed = put(masks, self._device).view(torch.uint8)
        return (packed.unsqueeze(-1) >> self._bits & 1).bool().flatten(1)

    def _accept(self, follower: Follower, token: int) -> None:
        follower.seen += 1
        follower.stuck = follower.stuck or not follower.matcher.accept(token)
