"""Exact page ids, exact eviction order, and no page in two states."""

from __future__ import annotations

import pytest

from ingot.runtime.pages import PagePool
from ingot.runtime.prefix import PrefixTree


def counts(pool: PagePool) -> tuple[int, int, int]:
    pool.check()
    return pool.free, pool.cached, pool.held


def cache(tree: PrefixTree, tokens: list[int], salt: str | None = None) -> list[int]:
    """Leases pages of two slots for the tokens, computes them and gives them back."""
    pages = tree.lease(len(tokens) // 2)
    tree.retire(tokens, pages, 0, len(pages), salt)
    return pages


def test_pages_are_leased_from_the_lowest_and_reused_last_first() -> None:
    pool = PagePool(5)
    assert pool.lease(3) == [0, 1, 2]
    pool.release([0, 1])
    assert pool.lease(3) == [0, 1, 3]
    assert pool.lease(0) == []
    assert counts(pool) == (1, 0, 4)


def test_shared_pages_are_free_once_nobody_holds_them() -> None:
    pool = PagePool(2)
    pages = pool.lease(2)
    pool.share([0])
    pool.release(pages)
    assert counts(pool) == (1, 0, 1)
    pool.release([0])
    assert counts(pool) == (2, 0, 0)


def test_pool_refuses_what_it_does_not_have() -> None:
    pool = PagePool(2)
    with pytest.raises(IndexError, match="3 pages leased, 2 free"):
        pool.lease(3)
    with pytest.raises(ValueError, match="released more often"):
        pool.release([0])


def test_check_finds_a_page_in_two_places() -> None:
    pool = PagePool(2)
    pool.check()
    pool._free.append(0)
    with pytest.raises(ValueError, match="!= 2"):
        pool.check()


def test_match_takes_whole_pages_and_leaves_one_token() -> None:
    tree = PrefixTree(pool := PagePool(8), 2)
    assert cache(tree, [1, 2, 3, 4, 5, 6]) == [0, 1, 2]
    assert counts(pool) == (5, 3, 0)
    assert tree.match([1, 2, 3, 4, 5, 6, 7], None) == [0, 1, 2]
    assert tree.match([1, 2, 3, 4, 5, 6], None) == [0, 1], "the last token is always computed"
    assert tree.match([1, 2, 9, 4, 5], None) == [0]
    assert tree.match([2, 1, 3], None) == []
    assert counts(pool) == (5, 0, 3)


def test_salts_do_not_share() -> None:
    tree = PrefixTree(PagePool(8), 2)
    cache(tree, [1, 2, 3], "a")
    assert tree.match([1, 2, 3], None) == tree.match([1, 2, 3], "b") == []
    assert tree.match([1, 2, 3], "a") == [0]


def test_leaves_are_evicted_first_in_order_of_their_last_release() -> None:
    tree = PrefixTree(pool := PagePool(6), 2)
    assert cache(tree, [1, 2, 3, 4, 5, 6]) == [0, 1, 2]
    assert cache(tree, [7, 8]) == [3]
    pool.release(tree.match([1, 2, 3, 4, 0], None))  # pages 0 and 1 are the newest now
    assert tree.lease(3) == [2, 4, 5]
    assert [tree.lease(1) for _ in range(3)] == [[3], [1], [0]]
    assert tree.match([1, 2, 3], None) == []
    assert counts(pool) == (0, 0, 6)


def test_leased_pages_are_never_evicted() -> None:
    tree = PrefixTree(pool := PagePool(3), 2)
    cache(tree, [1, 2, 3, 4, 5, 6])
    assert tree.match([1, 2, 3, 4, 5], None) == [0, 1]
    assert tree.lease(1) == [2]
    assert pool.available == 0


def test_an_emptied_salt_is_forgotten() -> None:
    tree = PrefixTree(PagePool(2), 2)
    for number in range(100):
        cache(tree, [1, 2, 3, 4], str(number))
    assert len(tree._roots) == len(tree._salts) == 1


def test_twins_are_merged_when_the_second_retires() -> None:
    tree = PrefixTree(pool := PagePool(8), 2)
    first, second = tree.lease(2), tree.lease(3)
    assert tree.extend([1, 2, 3, 4], first, 0, 2, None) == 2
    assert tree.extend([1, 2, 3, 4, 5, 6], second, 0, 3, None) == 0, "its first page has a twin"
    tree.retire([1, 2, 3, 4, 5, 6], second, 0, 3, None)
    assert counts(pool) == (5, 1, 2)
    assert tree.match([1, 2, 3, 4, 5, 6, 7], None) == [0, 1, 4]
    tree.retire([1, 2, 3, 4], first, 2, 2, None)
    assert counts(pool) == (5, 0, 3)


def test_pages_are_offered_as_they_fill() -> None:
    tree = PrefixTree(PagePool(4), 2)
    pages = tree.lease(2)
    assert tree.extend([1, 2, 3], pages, 0, 1, None) == 1
    assert tree.match([1, 2, 3, 4], None) == [0]
    assert tree.extend([1, 2, 3, 4], pages, 1, 2, None) == 2
    assert tree.match([1, 2, 3, 4, 5], None) == [0, 1]
