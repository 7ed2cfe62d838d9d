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

LEAST_ALLOWED = -1e29  # an allowed token that nothing else wants still beats every forbidden one, at any temperature
WORD = 32  # tokens of one mask word
BYTE = 8


@dataclass(slots=True)
class Follower:
    matcher: TokenMatcher
    seen: int  # tokens of the sequence, prompt included, up to which the matcher has read
    stuck: bool = False  # a token came that the grammar does not allow, or that ends it: only an end may follow


class RowConstraints:
    """Matchers by row; rows without one cost nothing."""

    def __init__(self, max_num_seqs: int, vocab_size: int, eos_token_ids: Sequence[int], device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        words = -(-vocab_size // WORD)
        end = np.zeros(words * WORD, bool)
        end[list(eos_token_ids)] = True
        self._end = np.packbits(end, bitorder="little").view(np.int32)  # the mask after a grammar's end
        self._ceilings = ceilings_of_bytes().to(device)
        self._followers: dict[int, Follower] = {}
        # Whether a row's mask forbids anything in this step: free text passes unmasked.
        self._forbids = np.zeros(max_num_seqs, bool)
        self._masks = torch.empty((max_num_seqs, words), dtype=torch.int32)  # by row, on the host; no page until used

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
        self._forbids[row] = False

    def follow(self, slices: Sequence[Slice]) -> None:
        """Takes in the newest token of every slice that samples, and fills in what may come next, while the matcher is
        in the processor's cache. The scheduler never lets the token be one that is on its way."""
        if not self._followers:
            return
        for part in slices:
            follower = self._followers.get(part.row) if part.samples else None
            if follower is None:
                continue
            if part.start + len(part.tokens) > follower.seen:
                self._accept(follower, part.tokens[-1])
            if follower.stuck:
                self._masks[part.row], self._forbids[part.row] = 0, True
            else:
                self._forbids[part.row] = follower.matcher.fill(self._masks, part.row)

    def hold(self, rows: NDArray[np.int64]) -> bool:
        """Whether one of `rows`, which `follow` has seen, may not draw just any token."""
        return bool(self._forbids[rows].any())

    def mask(self, logits: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """logits (R, V) of `rows` (R,), which `follow` has seen: those of forbidden tokens become -inf, in a copy;
        `logits` itself where nothing is forbidden."""
        places = np.flatnonzero(self._forbids[rows])
        if not len(places):
            return logits
        masks = self._masks.numpy()[rows[places]]
        masks[~masks.any(1)] = self._end  # the grammar has been followed to its end, or cannot be any more
        if len(places) == len(rows):
            return self._forbid(logits, masks)
        chosen = put(places, self._device)
        return logits.index_copy(0, chosen, self._forbid(logits[chosen], masks))

    def _forbid(self, logits: Tensor, masks: NDArray[np.int32]) -> Tensor:
        """By looked-up ceilings rather than a boolean mask, which torch applies to a CPU's logits element by element."""
        packed = put(masks, self._device).view(torch.uint8)
        ceilings = self._ceilings.index_select(0, packed.flatten().int()).view(len(masks), -1)[:, : self._vocab_size]
        floored = finite(logits).clamp_min_(LEAST_ALLOWED)
        return torch.minimum(floored, ceilings, out=floored)

    def _accept(self, follower: Follower, token: int) -> None:
        follower.seen += 1
        follower.stuck = follower.stuck or not follower.matcher.accept(token)


def ceilings_of_bytes() -> Tensor:
    """What the logits of eight tokens may be at most, for each byte of a mask: (256, 8) of infinity and -infinity."""
    bits = np.unpackbits(np.arange(1 << BYTE, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return torch.from_numpy(np.where(bits, np.float32("inf"), np.float32("-inf")))
