"""Sizes of captured decode steps: the usual ones, and those that measured times make best."""

from __future__ import annotations

from itertools import combinations, pairwise
from random import Random

import pytest

from ingot.plugins import step_sizes
from ingot.plugins.step_sizes import FEW, best_sizes, tried_sizes, usual_sizes


@pytest.mark.parametrize("most", [1, 3, 8, 1000, 1024])
def test_every_batch_has_a_bucket(most: int) -> None:
    sizes = usual_sizes(most)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == most
    for n in range(1, most + 1):
        assert min(size for size in sizes if size >= n) <= max(2 * n, n + 8)


def total(seconds: dict[int, float], sizes: list[int]) -> float:
    """Of one step of every number of rows above FEW."""
    return sum((size - before) * seconds[size] for before, size in pairwise([FEW, *sizes]))


@pytest.mark.parametrize("most", [130, 160, 200, 300])
def test_no_other_sizes_take_less(most: int) -> None:
    rng, tried, usual = Random(most), tried_sizes(most), usual_sizes(most)
    seconds = {size: size + rng.uniform(0, 100) for size in tried}
    found = best_sizes(seconds, most)
    assert [size for size in found if size <= FEW] == [size for size in usual if size <= FEW]
    chosen = [size for size in found if size > FEW]
    assert len(chosen) == -(-(most - FEW) // step_sizes.SPACING)
    assert chosen[-1] == most
    others = (
        combinations(tried[:-1], len(chosen) - 1) if most <= 200 else [[size for size in usual if FEW < size < most]]
    )
    assert total(seconds, chosen) <= min(total(seconds, [*some, most]) for some in others) + 1e-9


def test_few_rows_have_the_usual_sizes() -> None:
    assert best_sizes({}, 100) == usual_sizes(100)


def test_sizes_of_many_rows_are_the_usual_ones() -> None:
    seconds = dict.fromkeys(tried_sizes(2048), 1.0)
    found = best_sizes(seconds, 2048)
    assert [size for size in found if size > step_sizes.MOST] == [
        size for size in usual_sizes(2048) if size > step_sizes.MOST
    ]
    assert step_sizes.MOST in found
