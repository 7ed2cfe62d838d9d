"""How many pages the running sequences are still going to need. Knows lengths and how long answers were; leases nothing.

The idea is the past-future scheduler's (Gong et al., ASPLOS 2025): everyone grows by a token a step until it ends and gives
its pages back, so the need is highest just before one of those ends. An answer is expected to last for the mean of those
that have ended, or for its max_tokens where those are fewer; of one that outlives the mean, nothing more is expected.
"""

from __future__ import annotations

from bisect import bisect_left

from ingot.runtime.queue import ORDER
from ingot.runtime.sequence import Sequence

FIRST_MEAN = 512.0  # tokens of an answer while none has ended, where max_tokens says anything at all
WINDOW = 256  # the mean forgets as fast as one over so many answers


class Forecast:
    def __init__(self, num_pages: int, page_size: int) -> None:
        self._page_size = page_size
        self._spare = num_pages // 100  # left free whatever is forecast
        self._mean = FIRST_MEAN
        self._ended = 0
        self._asked_for: tuple[Sequence, int] | None = None  # who was asked for last, beside how many
        self._answer = self._good_for = 0  # pages; times that it may be given again

    def learn(self, tokens: int) -> None:
        """Takes in the length of an answer that has ended by itself."""
        self._ended = min(self._ended + 1, WINDOW)
        self._mean += (tokens - self._mean) / self._ended

    def reserve(self, seq: Sequence, running: list[Sequence], available: int) -> int:
        """Pages to leave free, of `available`, when `seq` starts: for it and for those that run ahead of it.

        Those that run behind it would be preempted for it; nothing is left free for them. `running` is sorted by order. Asked
        step by step for the same sequence, the answer stays for a page of steps, unless somebody leaves: it errs on the safe
        side by then, and one that is asked for in every step would cost a sort in each.
        """
        if not running:
            return 0  # what can run alone runs
        self._good_for -= 1
        if self._asked_for != (seq, len(running)) or self._good_for < 0:
            self._asked_for, self._good_for = (seq, len(running)), self._page_size - 1
            ahead = running[: bisect_left(running, seq.order, key=ORDER)]
            bound = self._pages(len(seq.tokens)) + (len(ahead) + 1) * self._pages(int(self._mean))
            fits = not ahead or available >= bound + self._spare
            self._answer = self._spare if fits else max(self._spare, self.pages_to_come(seq, ahead))
        return self._answer

    def pages_to_come(self, seq: Sequence, running: list[Sequence]) -> int:
        """Pages beyond those held now that `seq` and `running` will hold at most, until `seq` has ended.

        Each is counted as if it began a page now, which is one page too many for most. Costs a sort of `running`.
        """
        last = self._left(seq)
        ends = sorted((self._left(each), len(each.pages) - each.num_found) for each in running)
        growing, given_back, most = len(ends) + 1, 0, 0
        for left, own in ends:
            if left >= last:
                break
            most = max(most, growing * self._pages(left) - given_back)
            growing -= 1
            given_back += own
        return max(most, growing * self._pages(last) - given_back)

    def _left(self, seq: Sequence) -> int:
        """Tokens that a sequence is expected to compute beyond those it knows; its last one needs no slot."""
        if seq.params.max_tokens is None and not self._ended:
            return 0
        end = min(seq.max_len - 1, seq.num_prompt + int(self._mean))
        return max(0, end - max(len(seq.tokens), seq.num_computed))

    def _pages(self, tokens: int) -> int:
        return -(-tokens // self._page_size)
