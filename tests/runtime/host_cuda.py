"""torch.cuda for a machine without a GPU: GPU programs run on host memory, their kernels in Triton's interpreter.

A captured step is done again at every replay, and its results are put where the capture left them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
import torch
from torch import Tensor

from ingot.runtime.programs import cuda_forward

MEMORY = 1 << 30


class Event:
    def record(self) -> None:
        self.recorded = True

    def synchronize(self) -> None:
        assert self.recorded


@dataclass
class Replayed:
    """What graphs.capture returns, without a graph."""

    step: Callable[[], Any]
    out: Any

    def replay(self) -> None:
        again = self.step()
        for each in fields(self.out):
            if (kept := getattr(self.out, each.name)) is not None:
                kept.copy_(getattr(again, each.name))


@dataclass
class HostCuda:
    """What was captured and replayed, in order: one entry for each capture, its error mode."""

    error_modes: list[str] = field(default_factory=list)
    replays: int = 0
    lent: list[tuple[Tensor, range]] = field(default_factory=list)  # and which captures leave it alone

    def capture(self, step: Callable[[], Any], *, beside: Any = None, error_mode: str = "global") -> Replayed:
        step()
        number = len(self.error_modes)
        self.error_modes.append(error_mode)
        return Replayed(lambda: self._replay(number, step), step())

    def lend(self, out: Tensor) -> Tensor:
        """Of the captures since the last call: all others write where `out` lies."""
        begin = self.lent[-1][1].stop if self.lent else 0
        self.lent.append((out, range(begin, len(self.error_modes))))
        return out

    def _replay(self, number: int, step: Callable[[], Any]) -> Any:
        self.replays += 1
        for out, spared in self.lent:
            if number not in spared:
                out.fill_(math.nan)
        return step()


@pytest.fixture
def host_cuda(monkeypatch: pytest.MonkeyPatch) -> HostCuda:
    host = HostCuda()
    monkeypatch.setattr(cuda_forward, "capture", host.capture)
    monkeypatch.setattr(cuda_forward, "lent", host.lend)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    fakes = {
        "Event": Event,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: 0,
        "max_memory_allocated": lambda: 0,
        "memory_reserved": lambda: 0,
        "mem_get_info": lambda: (MEMORY, MEMORY),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return host
