"""The pool of KV pages as leases with reference counts. Knows page ids only: not their tokens, owners or memory.

A page is in one of three states, so that free + cached + held == total at any time:

    free     nobody needs what it holds
    held     one or more sequences read or write it
    cached   no sequence does, but the prefix tree keeps it: given up on demand, least recently released first
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class PagePool:
    def __init__(self, num_pages: int) -> None:
        self.total = num_pages
        self._free = list(range(num_pages - 1, -1, -1))  # a stack: page 0 is leased first
        self._cached: OrderedDict[int, None] = OrderedDict()  # oldest release first
        self._references = [0] * num_pages
        self._kept = bytearray(num_pages)  # 1: the prefix tree keeps the page when its last lease ends
        self._held = 0

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def cached(self) -> int:
        return len(self._cached)

    @property
    def held(self) -> int:
        return self._held

    @property
    def available(self) -> int:
        """Pages that can be leased now: the free ones, and the cached ones once evicted."""
        return len(self._free) + len(self._cached)

    def lease(self, count: int) -> list[int]:
        """Takes `count` pages off the free stack; the caller has made sure that they are there."""
        free = self._free
        if count > len(free):
            raise IndexError(f"{count} pages leased, {len(free)} free")
        pages = [free.pop() for _ in range(count)]
        for page in pages:
            self._references[page] = 1
        self._held += count
        return pages

    def share(self, pages: Sequence[int]) -> None:
        """One more lease on each page, held or cached."""
        references = self._references
        for page in pages:
            if references[page] == 0:
                del self._cached[page]
                self._held += 1
            references[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """Ends one lease on each page, last page first: a prefix tree's leaf turns evictable before its parents."""
        references = self._references
        for page in reversed(pages):
            references[page] -= 1
            if references[page] == 0:
                self._held -= 1
                if self._kept[page]:
                    self._cached[page] = None
                else:
                    self._free.append(page)
            elif references[page] < 0:
                raise ValueError(f"page {page} was released more often than leased")

    def keep(self, page: int) -> None:
        """From its last release on, a held page is cached instead of free."""
        self._kept[page] = 1

    def evict(self) -> int:
        """Frees the page that has been cached for longest and names it."""
        page, _ = self._cached.popitem(last=False)
        self._kept[page] = 0
        self._free.append(page)
        return page

    def check(self) -> None:
        """Raises ValueError unless every page is in exactly one state. Costs O(total): for tests and post-mortems."""
        held = sum(1 for count in self._references if count > 0)
        if held != self._held or self.free + self.cached + self.held != self.total:
            raise ValueError(f"{self.free} free + {self.cached} cached + {self.held} ({held}) held != {self.total}")
        idle = [*self._free, *self._cached]
        if len(set(idle)) != len(idle) or any(self._references[page] for page in idle):
            raise ValueError("a free or cached page is in two places")
        if any(self._kept[page] for page in self._free) or not all(self._kept[page] for page in self._cached):
            raise ValueError("a page is cached without the prefix tree, or free within it")
