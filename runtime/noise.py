"""Uniform numbers that depend on a request's seed and a token's position alone, so that no batch can change a text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GAMMA = np.uint64(0x9E3779B97F4A7C15)


def uniform(seeds: NDArray[np.uint64], positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """(R,) numbers in [0, 1), multiples of 2 ** -24, one for each pair of seed and position in the sequence."""
    counters = mix(seeds) + (positions.astype(np.uint64) + np.uint64(1)) * GAMMA
    return (mix(counters) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
