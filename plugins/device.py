"""The GPU at hand: what it can do, and how many multiprocessors it has."""

from __future__ import annotations

from functools import cache

import torch


@cache
def capability() -> tuple[int, int]:
    return torch.cuda.get_device_capability()


@cache
def num_processors() -> int:
    return torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
