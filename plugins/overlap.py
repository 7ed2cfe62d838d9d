"""Whether kernels may start before the stream's previous kernel has ended (programmatic dependent launch, SM >= 9.0).

A kernel launched so waits for its predecessor before it touches anything but weights. One with few programs also lets its
successor start at once, so that the successor's first weights are on their way; one with many does not, for the successor's
blocks would crowd onto the processors that it leaves free. INGOT_OVERLAP=0 turns it off, to find out whether it is to blame.
"""

from __future__ import annotations

import os
from functools import cache

import torch

FEW = 4  # rows


@cache
def overlap() -> bool:
    if os.environ.get("INGOT_OVERLAP") == "0" or os.environ.get("TRITON_INTERPRET") == "1":
        return False
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)


def overlap_level(num_rows: int) -> int:
    """What kernels.after_previous does: 0 nothing, 1 wait, 2 wait and let the next kernel start."""
    return (2 if num_rows <= FEW else 1) if overlap() else 0
