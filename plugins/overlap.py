"""Whether kernels may start before the stream's previous kernel has ended (programmatic dependent launch, SM >= 9.0).

A kernel launched so waits for its predecessor before it touches anything but weights. EARLY lets its successor start at
once, so that the successor's first weights are on their way: measured on an H200, 6 % of a step at 1 row, but a loss at 16, for
early blocks crowd onto the processors that small kernels leave free. LATE lets it start once the kernel's own loads are done.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

import torch

NONE, EARLY, LATE = 0, 1, 2  # the kernels' PDL


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Steps of at most `early` rows overlap early, larger ones of at most `late` rows late. INGOT_OVERLAP=0 turns all off."""

    early: int = 4
    late: int = 0


_chosen: list[Overlap] = [Overlap()]


def choose_overlap(chosen: Overlap) -> None:
    """For every launch from now on."""
    _chosen[0] = chosen


def overlap(num_rows: int) -> int:
    """NONE, EARLY or LATE for the kernels of a step of so many rows."""
    chosen = _chosen[0]
    if num_rows > max(chosen.early, chosen.late) or not supported():
        return NONE
    return EARLY if num_rows <= chosen.early else LATE


@cache
def supported() -> bool:
    if os.environ.get("INGOT_OVERLAP") == "0" or os.environ.get("TRITON_INTERPRET") == "1":
        return False
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
