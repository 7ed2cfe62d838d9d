"""Whether kernels may start before the stream's previous kernel has ended (programmatic dependent launch, SM >= 9.0).

A kernel launched so waits for its predecessor before it reads what that one, or the one before it, writes. A linear lets its
successor start once its own loads are done, so that one that runs knows that all before that linear has ended: norms load the
residual, attention lengths, pages and old tokens, before they wait. The kernels between linears, which are small, let their
successor start at their end (LATE) or at once (AHEAD), so that a linear's first weights are on their way meanwhile: measured on an
H200, 4 % of a step of 16 rows more than LATE in FP8, but slower where the linears are not skinny.cu's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

import torch

NONE, LATE, AHEAD = 0, 1, 2  # the kernels' PDL


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Steps of at most `ahead` rows are AHEAD, larger ones of at most `late` rows LATE. INGOT_OVERLAP=0 turns all off."""

    ahead: int = 4
    late: int = 0

    def examples(self) -> list[int]:
        """A number of rows for each way there is."""
        return sorted({1, self.ahead + 1, self.late + 1})


ALONE = Overlap(ahead=0)
_chosen: list[Overlap] = [Overlap()]


def choose_overlap(chosen: Overlap) -> None:
    """For every launch from now on."""
    _chosen[0] = chosen


def chosen_overlap() -> Overlap:
    return _chosen[0]


def overlap(num_rows: int) -> int:
    """NONE, LATE or AHEAD for the small kernels of a step of so many rows."""
    chosen = _chosen[0]
    if num_rows > max(chosen.ahead, chosen.late) or not supported():
        return NONE
    return AHEAD if num_rows <= chosen.ahead else LATE


def linear_overlap(num_rows: int) -> int:
    """NONE or LATE: nothing starts before a linear has waited."""
    return min(overlap(num_rows), LATE)


@cache
def supported() -> bool:
    if os.environ.get("INGOT_OVERLAP") == "0" or os.environ.get("TRITON_INTERPRET") == "1":
        return False
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
