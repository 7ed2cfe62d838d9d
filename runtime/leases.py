"""Which pages each sequence holds, from its first step to its last. Knows sequences, pool and prefix tree; no policy."""

from __future__ import annotations

from ingot.runtime.pages import PagePool
from ingot.runtime.prefix import PrefixTree
from ingot.runtime.sequence import Sequence


class Leases:
    def __init__(self, num_pages: int, page_size: int) -> None:
        self.pool = PagePool(num_pages)
        self.tree = PrefixTree(self.pool, page_size)
        self.page_size = page_size
        self.prefix_queries = 0  # prompt tokens looked up
        self.prefix_hits = 0  # prompt tokens found
        self._refused: tuple[Sequence, int] | None = None  # who could not start last, and the pages it takes

    def start(self, seq: Sequence, *, spare: int) -> bool:
        """Leases pages for all tokens a sequence knows: those the prefix tree has, and new ones for the rest.

        Leases nothing and returns False where fewer than `spare` pages would stay available.
        """
        available = self.pool.available
        if self._refused is not None and self._refused[0] is seq and available < self._refused[1] + spare:
            return False  # still too few: spares looking up a long prompt in every step
        matched = [] if seq.reads_it_all else self.tree.match(seq.tokens, seq.cache_salt)
        lacking = -(-len(seq.tokens) // self.page_size) - len(matched)
        if self.pool.available < lacking + spare:
            self._refused = (seq, lacking + available - self.pool.available)
            self.pool.release(matched)
            return False
        self._refused = None
        seq.pages = matched + self.tree.lease(lacking)
        seq.num_found = seq.num_kept = seq.num_full = len(matched)
        seq.num_computed = seq.num_kept * self.page_size
        if not seq.has_run and not seq.reads_it_all:
            seq.cached_tokens = seq.num_computed
            self.prefix_queries += seq.num_prompt
            self.prefix_hits += seq.num_computed
        return True

    def has_slot(self, seq: Sequence, position: int) -> bool:
        return position < len(seq.pages) * self.page_size

    def grow(self, seq: Sequence) -> None:
        """Leases one more page, of those available."""
        seq.pages += self.tree.lease(1)

    def cover(self, seq: Sequence, end: int) -> tuple[list[int], int]:
        """The pages for positions before `end`, and how many of them the row's table does not have yet."""
        count = -(-end // self.page_size)
        new = count - seq.covered // self.page_size
        seq.covered = count * self.page_size
        seq.clear_until = min(seq.covered, seq.max_len - 1)
        return (seq.pages if count == len(seq.pages) else seq.pages[:count]), new

    def keep_full(self, seq: Sequence, settled: int) -> int:
        """Offers a running sequence's settled full pages to the prefix tree. Returns how many there are."""
        full = settled // self.page_size
        if full > seq.num_full:
            seq.num_full = full
            seq.num_kept = self.tree.extend(seq.tokens, seq.pages, seq.num_kept, full, seq.cache_salt)
        return full

    def end(self, seq: Sequence) -> None:
        """Gives every page back; the settled full ones stay in the prefix tree for as long as nobody needs the room."""
        self.tree.retire(seq.tokens, seq.pages, seq.num_kept, seq.num_full, seq.cache_salt)
