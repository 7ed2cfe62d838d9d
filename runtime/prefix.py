"""The prefix tree: which pages hold the KV of which token prefixes. Knows tokens and page ids; no sequences, no memory.

One node is one full page; a child is found by its page's tokens, compared exactly (as the bytes of int32 token ids:
for a long prompt that is twice as fast as tuples). Each cache salt has a root of its own. The idea is
SGLang's RadixAttention (arXiv:2312.07104), cut at page granularity as vLLM's block hashes are, but without trusting hashes.

Whoever leases a node's page also leases the pages of all its ancestors, and releases them deepest first. So an unleased
node has unleased descendants only, all of them released before it, and the pool's oldest cached page is always a leaf.
"""

from __future__ import annotations

from struct import Struct, pack

from ingot.runtime.pages import PagePool

TOKEN = "i"  # int32, in struct's letters
TOKEN_BYTES = 4


class Node:
    __slots__ = ("children", "key", "page", "parent")

    def __init__(self, page: int, key: bytes, parent: Node | None) -> None:
        self.page = page
        self.key = key
        self.parent = parent
        self.children = NONE  # until it has one: most nodes are leaves, and an empty dictionary each is slow to make


NONE: dict[bytes, Node] = {}  # never written to


class PrefixTree:
    def __init__(self, pool: PagePool, page_size: int) -> None:
        self._pool = pool
        self._page_size = page_size
        self._key = Struct(f"{page_size}{TOKEN}").pack
        self._roots: dict[str | None, Node] = {}
        self._salts: dict[Node, str | None] = {}
        self._nodes: list[Node | None] = [None] * pool.total  # by page

    def match(self, tokens: list[int], salt: str | None) -> list[int]:
        """Leases and returns the pages of the longest cached prefix of whole pages that leaves one token to compute."""
        node = self._roots.get(salt)
        if node is None:
            return []
        size = self._page_size
        shareable = (len(tokens) - 1) // size * size
        keys = pack(f"{shareable}{TOKEN}", *tokens[:shareable])
        stride = size * TOKEN_BYTES
        pages = []
        for start in range(0, len(keys), stride):
            node = node.children.get(keys[start : start + stride])
            if node is None:
                break
            pages.append(node.page)
        self._pool.share(pages)
        return pages

    def extend(self, tokens: list[int], pages: list[int], kept: int, full: int, salt: str | None) -> int:
        """Adds pages[kept:full], whose tokens are all computed, below the `kept` that are in the tree already.

        Returns how many leading pages are in the tree now. That is fewer than `full` where another sequence's page
        holds the same tokens: what lies deeper can only be added when the sequence retires.
        """
        for place in range(kept, full):
            parent, key = self._branch(tokens, pages, place, salt)
            if key in parent.children:
                return place
            self._add(pages[place], key, parent)
        return max(kept, full)

    def retire(self, tokens: list[int], pages: list[int], kept: int, full: int, salt: str | None) -> None:
        """Ends a sequence's lease on all its pages, after adding those of pages[:full] that the tree lacks."""
        pages = pages.copy()
        for place in range(kept, full):
            parent, key = self._branch(tokens, pages, place, salt)
            twin = parent.children.get(key)
            if twin is None:
                self._add(pages[place], key, parent)
            else:
                self._pool.share([twin.page])
                self._pool.release([pages[place]])
                pages[place] = twin.page
        self._pool.release(pages)

    def lease(self, count: int) -> list[int]:
        """Leases pages from the pool, evicting the least recently used leaves where too few are free."""
        while self._pool.free < count:
            self._drop(self._pool.evict())
        return self._pool.lease(count)

    def _branch(self, tokens: list[int], pages: list[int], place: int, salt: str | None) -> tuple[Node, bytes]:
        """The node under which page number `place` of a sequence belongs, and its key there."""
        parent = self._nodes[pages[place - 1]] if place else self._root(salt)
        if parent is None:
            raise KeyError(f"page {pages[place - 1]} is not in the prefix tree")
        return parent, self._key(*tokens[place * self._page_size : (place + 1) * self._page_size])

    def _root(self, salt: str | None) -> Node:
        root = self._roots.get(salt)
        if root is None:
            root = self._roots[salt] = Node(-1, b"", None)
            self._salts[root] = salt
        return root

    def _add(self, page: int, key: bytes, parent: Node) -> None:
        if parent.children is NONE:
            parent.children = {}
        self._nodes[page] = parent.children[key] = Node(page, key, parent)
        self._pool.keep(page)

    def _drop(self, page: int) -> None:
        node = self._nodes[page]
        if node is None or node.parent is None or node.children:
            raise KeyError(f"evicted page {page} is not a leaf of the prefix tree")
        self._nodes[page] = None
        del node.parent.children[node.key]
        if node.parent.parent is None and not node.parent.children:
            del self._roots[self._salts.pop(node.parent)]
