"""How bulk.cu is laid out and launched: clusters over weight rows, blocks of a cluster over K, a ring in what shared memory is left.

Knows sizes and counts; what is multiplied is the kernel's business.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ingot.plugins.cubin import CudaKernel, kernel
from ingot.plugins.overlap import LATE
from ingot.plugins.tensor_map import row_boxes

SOURCE = Path(__file__).with_name("bulk.cu")
KINDS = {torch.bfloat16: 0, torch.float8_e4m3fn: 1}
TILE, BOX, UNIT = 64, 16, 256  # weight rows, those of one copy, bytes of K: as in bulk.cu
SLOT_BYTES = TILE * UNIT
LEAST_SLOTS = 6  # 96 KiB on their way
MOST_SHARED = 227 << 10
POLITE_SHARED = (
    200 << 10
)  # leaves room for blocks of the small kernels before and after; a ring shorter than the least goes beyond
MOST_ROWS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """bulk.cu, for at most 32 rows of x in bf16 or e4m3: blocks of a `cluster` (1, 2, 4, 8) share out K, and `groups` (1, 2)
    warpgroups of a block take turns."""

    cluster: int = 4
    groups: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """bulk.cu's COLS, UNITS, SLOTS and SHARED."""

    cols: int
    units: int
    slots: int
    shared: int


def layout(choice: Bulk, num_rows: int, k_bytes: int) -> Layout:
    """Fewer than LEAST_SLOTS slots where x leaves no room for more; as many for each warpgroup (see bulk.cu)."""
    cols = next(size for size in (1, 2, 4) if num_rows <= 8 * size)
    units = -(-k_bytes // (UNIT * choice.cluster))
    sums = 2 * choice.groups * 8 * cols * (TILE + 4) * 4
    fixed = 1024 + units * 8 * cols * UNIT + sums + (units + 2) * 8
    slots = max(
        (POLITE_SHARED - fixed) // (SLOT_BYTES + 16), min(LEAST_SLOTS, (MOST_SHARED - fixed) // (SLOT_BYTES + 16))
    )
    slots -= slots % choice.groups
    return Layout(cols=cols, units=units, slots=slots, shared=fixed + slots * (SLOT_BYTES + 16))


def bulk_fits(choice: Bulk, num_rows: int, n: int, k_bytes: int) -> bool:
    if num_rows > MOST_ROWS or n % 8 or k_bytes % 128:
        return False
    return layout(choice, num_rows, k_bytes).slots >= LEAST_SLOTS


def bulk_choices(num_rows: int, n: int, k_bytes: int) -> list[Bulk]:
    """Those that fit, with two warpgroups where their sums leave the ring its room."""
    found = []
    for cluster in (1, 2, 4, 8):
        ways = (Bulk(cluster=cluster, groups=groups) for groups in (2, 1))
        found += [way for way in ways if bulk_fits(way, num_rows, n, k_bytes)][:1]
    return found


@cache
def hopper() -> bool:
    """Whether this GPU has the products that bulk.cu is written in."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)


def spread(n: int, most_clusters: int) -> tuple[int, int]:
    """Clusters, and weight rows of each but the last: as even as copies of BOX rows allow."""
    boxes = -(-n // BOX)
    each = -(-boxes // most_clusters)
    return -(-boxes // each), each * BOX


def run_bulk(
    x: Tensor, scales: Tensor | None, data: Tensor, weight_scale: Tensor | None, bias: Tensor | None, choice: Bulk, *,
    out_dtype: torch.dtype, overlapping: int,
) -> Tensor:  # fmt: skip
    """(T, K) . (N, K)^T -> (T, N), both bf16 or both e4m3. `overlapping`: as overlap.py gives it."""
    num_rows, n, k_bytes = x.shape[0], data.shape[0], x.shape[1] * x.element_size()
    out, plan = torch.empty(num_rows, n, dtype=out_dtype, device=x.device), layout(choice, num_rows, k_bytes)
    defines = {"KIND": KINDS[x.dtype], "COLS": plan.cols, "CLUSTER": choice.cluster, "GROUPS": choice.groups, "SLOTS": plan.slots,
               "UNITS": plan.units, "LATE": int(overlapping == LATE), "OUT_F32": int(out_dtype == torch.float32)}  # fmt: skip
    threads = 128 * choice.groups + 32
    compiled = kernel(SOURCE, "bulk", defines, shared=plan.shared)
    clusters, rows = spread(n, most_clusters(compiled, threads))
    compiled.launch(
        (clusters * choice.cluster, 1, 1), threads,
        [out, row_boxes(x, 8 * plan.cols), row_boxes(data, BOX), scales, weight_scale, bias, ctypes.c_int(num_rows), ctypes.c_int(n),
         ctypes.c_int(k_bytes), ctypes.c_int(rows)],
        overlap=overlapping > 0,
    )  # fmt: skip
    return out


@cache
def most_clusters(compiled: CudaKernel, threads: int) -> int:
    """That run at a time: fewer blocks than processors where those of a processing cluster are no multiple of a cluster's."""
    return compiled.resident_clusters(threads)
