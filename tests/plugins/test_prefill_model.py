"""prefill.cu's arithmetic by hand: where the tensor cores look for what was stored, which lane holds what, and the ring's order.

The hardware's side is PTX's: canonical layouts of 128-byte swizzled operands, fragments of wgmma.m64nNk16.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from ingot.plugins.attention.launch import PREFILL_SHARED

SOURCE = (Path(__file__).resolve().parents[2] / "plugins" / "attention" / "prefill.cu").read_text()
HALF, SLOTS, DIM, KEYS = 128 * 128, 4, 128, 128


def place(row: int, chunk: int, half: int) -> int:
    """The kernel's own expression, which is Python's too."""
    found = re.search(r"u32 place\(.*?\{\s*return (.*?);", SOURCE, re.DOTALL)
    assert found
    return int(eval(found[1], {"row": row, "chunk": chunk, "half": half}))


def swizzled(address: int) -> int:
    return address ^ (address >> 7 & 7) << 4


def test_scores_read_what_was_stored() -> None:
    """K-major: rows of 128 bytes, groups of 8 rows 1024 bytes apart; a product advances 32 bytes, a half of columns by its start."""
    for row in range(128):
        for k in range(DIM // 16):
            start = k // 4 * HALF + k % 4 * 32
            for inner in range(16):
                hardware = swizzled(start + row // 8 * 1024 + row % 8 * 128 + 2 * inner)
                column = 16 * k + inner
                assert hardware == place(row, column // 8, HALF) + column % 8 * 2


def test_values_are_read_across_their_rows() -> None:
    """MN-major: 64 columns lie together, the next 64 `leading` bytes on; groups of 8 keys 1024 bytes apart."""
    assert "descriptor(tile + k * 2048, HALF_BYTES)" in SOURCE
    for k in range(KEYS // 16):
        for inner in range(16):
            for column in range(DIM):
                at = k * 2048 + column // 64 * HALF + column % 64 * 2 + inner // 8 * 1024 + inner % 8 * 128
                assert swizzled(at) == place(16 * k + inner, column // 8, HALF) + column % 8 * 2


def test_scores_become_the_fragments_of_the_next_product() -> None:
    """p[4 k + j] packs s[8 k + 2 j] and its neighbour: j as the A fragment of m64k16 orders rows g, g + 8 and columns 2 c, 2 c + 8."""

    def score(i: int, g: int, c: int) -> tuple[int, int]:
        return g + 8 * (i >> 1 & 1), i // 4 * 8 + 2 * c + (i & 1)

    for k in range(8):
        for j in range(4):
            for g in range(8):
                for c in range(4):
                    low, high = score(8 * k + 2 * j, g, c), score(8 * k + 2 * j + 1, g, c)
                    assert low == (g + 8 * (j & 1), 16 * k + 2 * c + 8 * (j >> 1))
                    assert high == (low[0], low[1] + 1)


def brought(tiles: int) -> list[tuple[str, int]]:
    """What the producer's steps of one item bring."""
    steps = []
    for i in range(2 * tiles):
        keys = i == 0 or (i % 2 == 1 and i < 2 * tiles - 1)
        steps.append(("k", (i + 1) // 2) if keys else ("v", i // 2 - (0 if i & 1 else 1)))
    return steps


def taken(tiles: int) -> list[tuple[str, int]]:
    steps = [("k", 0)]
    for tile in range(1, tiles):
        steps += [("k", tile), ("v", tile - 1)]
    return [*steps, ("v", tiles - 1)]


@pytest.mark.parametrize("late", [1, 0])
def test_the_ring_neither_stops_nor_mixes_tiles_up(late: int) -> None:
    """Barriers as counters: full after the bytes, empty after the product. `late`: steps between bringing and announcing."""
    items = [random.randint(1, 9) for _ in range(20)]
    assert all(brought(tiles) == taken(tiles) for tiles in items)
    total = sum(2 * tiles for tiles in items)
    loaded = announced = released = consumed = 0
    while released < total:
        before = (loaded, announced, released, consumed)
        if loaded < total and loaded - released < SLOTS:
            loaded += 1
        blocked = loaded == total or loaded - released == SLOTS  # it announces all before it waits
        announced = loaded if blocked else max(announced, loaded - late)
        consumed = min(announced, released + 2)  # a consumer waits for a tile's keys and the values before them
        released = consumed
        assert (loaded, announced, released, consumed) != before
    assert consumed == total


def test_shared_memory_is_what_the_kernel_lays_out() -> None:
    tile, queries = KEYS * DIM * 2, 64 * DIM * 2
    assert "#define SHARED (SLOTS * TILE_BYTES + 4 * Q_BYTES + 1024)" in SOURCE
    assert SLOTS * tile + 4 * queries + 1024 == PREFILL_SHARED <= 227 << 10
