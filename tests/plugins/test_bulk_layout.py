"""Who reads and stores what of a bulk.cu launch, how deep its ring is, and that what a launch asks for is what the kernel lays out.

What the kernel computes: test_linear_ptx.py.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest

from ingot.plugins.linear.bulk import (
    BOX,
    LEAST_SLOTS,
    MOST_SHARED,
    SLOT_BYTES,
    SOURCE,
    TILE,
    UNIT,
    Bulk,
    bulk_choices,
    bulk_fits,
    layout,
    spread,
)

TEXT = SOURCE.read_text()
SHAPES = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)}
ALL_SHARES = [(n, k, c) for n, k in [*SHAPES.values(), (1000, 1152), (8, 128), (40, 640)] for c in (1, 2, 4, 8)]


@pytest.mark.parametrize("cols", [1, 2, 4])
def test_sums_of_a_tile_lie_once_and_without_bank_conflicts(cols: int) -> None:
    found = re.search(r"const int row = (.*?), column = (.*?);\n", TEXT)
    assert found
    row_of, column_of = (text.replace("j / 4", "j // 4") for text in found.groups())
    pitch, places = TILE + 4, set()
    for j in range(4 * cols):
        for warp in range(4):
            banks = set()
            for lane in range(32):
                names = {"warp": warp, "g": lane >> 2, "c": lane & 3, "j": j}
                row, column = int(eval(row_of, names)), int(eval(column_of, names))
                # PTX, wgmma's accumulator: rows g and g + 8 of the warp's 16, columns 2 c and 2 c + 1 of every 8.
                assert row == 16 * warp + (lane >> 2) + (8 if j % 4 >= 2 else 0)
                assert column == j // 4 * 8 + 2 * (lane & 3) + j % 2
                places.add(column * pitch + row)
                banks.add((column * pitch + row) % 32)
            assert len(banks) == 32
    assert len(places) == TILE * 8 * cols
    assert pitch * 4 % 16 == 0  # four at a time are read


def shares(n: int, k_bytes: int, cluster: int, most: int) -> list[tuple[int, int, int, int, int]]:
    """(begin row, end row, rank, first unit, units) of every block, as Share computes them."""
    clusters, each = spread(n, most)
    units = -(-k_bytes // UNIT)
    return [
        (q * each, min(q * each + each, n), r, r * units // cluster, (r + 1) * units // cluster - r * units // cluster)
        for q in range(clusters)
        for r in range(cluster)
    ]


@pytest.mark.parametrize("blocks", [132, 120, 8])
@pytest.mark.parametrize(("n", "k", "cluster"), ALL_SHARES)
def test_every_weight_is_read_once_and_every_output_stored_once(n: int, k: int, cluster: int, blocks: int) -> None:
    read: Counter[tuple[int, int]] = Counter()
    stored: Counter[int] = Counter()
    for begin, end, rank, first, units in shares(n, k, cluster, blocks // cluster):
        assert begin < end
        assert units <= layout(Bulk(cluster=cluster), 1, k).units
        for tile in range(begin, end, TILE):
            boxes = min(-(-(end - tile) // BOX), TILE // BOX)
            read.update(
                (row // BOX, unit)
                for row in range(tile, tile + boxes * BOX, BOX)
                for unit in range(first, first + units)
            )
            own = range(tile + rank * TILE // cluster, tile + (rank + 1) * TILE // cluster, 4)
            stored.update(row for row in own if row < end)
    assert set(read.values()) == {1}
    assert len(read) == -(-n // BOX) * -(-k // UNIT)
    assert stored == Counter(range(0, n, 4))


@pytest.mark.parametrize(("n", "k"), SHAPES.values())
def test_blocks_of_a_whole_gpu_get_equal_bytes(n: int, k: int) -> None:
    """Of Llama-3.1-8B, where 132 processors find room for 32 clusters of four."""
    sizes = {(end - begin) * units for begin, end, _, _, units in shares(n, k, 4, 32)}
    assert sizes == {n * -(-k // UNIT) // 128}


@pytest.mark.parametrize("rows", [8, 16, 32])
@pytest.mark.parametrize(("n", "k"), SHAPES.values())
def test_the_ring_is_deep(n: int, k: int, rows: int) -> None:
    choices = bulk_choices(rows, n, k)
    assert any(choice.cluster == 4 for choice in choices)
    for choice in choices:
        plan = layout(choice, rows, k)
        assert plan.slots * SLOT_BYTES >= 96 << 10
        assert plan.shared <= MOST_SHARED
        assert plan.slots % choice.groups == 0
    assert not bulk_fits(Bulk(cluster=1), 32, 4096, 14336)  # x alone takes more than there is
    assert not bulk_fits(Bulk(), 33, n, k)
    assert not bulk_fits(Bulk(), 8, n + 4, k)


def defined(name: str, macros: dict[str, int]) -> int:
    """A #define of the kernel's, worked out under these macros."""
    found = re.search(rf"#define {name} (.*?)(?: +//.*)?$", TEXT, re.MULTILINE)
    if found is None:
        return macros[name]
    expression = re.sub(r"[A-Z][A-Z_]*", lambda part: str(defined(part[0], macros)), found[1])
    return int(eval(expression))


@pytest.mark.parametrize("rows", [1, 16, 32])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("cluster", [1, 2, 4, 8])
def test_shared_memory_is_what_the_kernel_lays_out(rows: int, groups: int, cluster: int) -> None:
    plan = layout(Bulk(cluster=cluster, groups=groups), rows, 4096)
    macros = {"COLS": plan.cols, "GROUPS": groups, "SLOTS": plan.slots, "UNITS": plan.units}
    assert defined("SHARED", macros) == plan.shared
    assert (defined("TILE", macros), defined("BOX", macros), defined("UNIT", macros)) == (TILE, BOX, UNIT)
    assert plan.slots >= LEAST_SLOTS or not bulk_fits(Bulk(cluster=cluster, groups=groups), rows, 4096, 4096)
