"""Whether kernels may start before the stream's previous kernel has ended (programmatic dependent launch, SM >= 9.0).

A kernel launched so waits for its predecessor before it touches anything but weights, and lets its successor start at
once. INGOT_OVERLAP=0 turns it off, to find out whether it is to blame.
"""

from __future__ import annotations

import os
from functools import cache

import torch


@cache
def overlap() -> bool:
    if os.environ.get("INGOT_OVERLAP") == "0" or os.environ.get("TRITON_INTERPRET") == "1":
        return False
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
