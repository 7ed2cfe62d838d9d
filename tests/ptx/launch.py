"""Stands in for ingot.plugins.cubin's kernels: the same launch, of tensors on the CPU, interpreted."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.poison import poisoned
from tests.ptx.compile import ptx_of
from tests.ptx.copies import BoxMap
from tests.ptx.machine import Machine
from tests.ptx.memory import SPAN, Global
from tests.ptx.parse import parse

from ingot.plugins import tensor_map
from ingot.plugins.attention import launch as attention
from ingot.plugins.attention import prefill
from ingot.plugins.linear import gated
from ingot.plugins.linear import launch as linear

# Arguments that the previous kernel does not write, or, of a cache, in part: weights; cache, page table, rows, lengths.
EARLY = {"skinny": (2,), "skinny_int4": (2, 3), "paged_decode": (2, 3, 4, 5)}


@dataclass(slots=True, kw_only=True)
class Setting:
    """Of the launches in a test: the order of threads, what the GPU would say of itself, and what of a cache the kernel before writes."""

    seed: int | None = None
    processors: int = 2
    fresh: torch.Tensor | None = None  # bool, as large as the cache


@dataclass(frozen=True, eq=False, slots=True)
class PtxKernel:
    """Has CudaKernel's methods."""

    source: Path
    name: str
    defines: tuple[tuple[str, int], ...]
    shared: int
    setting: Setting

    def launch(self, grid: tuple[int, int, int], threads: int, args: list[Any], *, overlap: bool = False) -> None:
        kernel = parse(ptx_of(self.source, self.defines))
        assert kernel.name == self.name
        memory = Global()
        values = [argument(arg, memory) for arg in args]
        early = {number(values[i]): self.fresh(args[i]) for i in EARLY.get(self.name, ())} if overlap else None
        Machine(
            kernel, values, memory, threads=threads, grid=grid, shared=self.shared, seed=self.setting.seed, early=early
        ).run()

    def fresh(self, arg: Any) -> Any:
        """Of each of the tensor's 16-byte pieces, whether the kernel before writes it."""
        fresh = self.setting.fresh
        if fresh is None or isinstance(arg, BoxMap) or fresh.shape != arg.shape:
            return None
        return fresh.flatten()[:: 16 // arg.element_size()].numpy()


def number(value: int | BoxMap) -> int:
    """Which tensor of the global memory an argument points to."""
    return (value.address if isinstance(value, BoxMap) else value) >> SPAN


def argument(arg: Any, memory: Global) -> int | BoxMap:
    """As a parameter's bits."""
    if arg is None:
        return 0
    if isinstance(arg, torch.Tensor):
        return memory.add(arg)
    if isinstance(arg, BoxMap):
        return replace(arg, address=memory.add(arg.matrix()))
    if isinstance(arg, ctypes.c_float):
        return int(struct.unpack("<I", struct.pack("<f", arg.value))[0])
    return int(arg.value) & 0xFFFFFFFFFFFFFFFF


def describe(address: int, rows: int, row_bytes: int, box_rows: int) -> BoxMap:
    """As tensor_map.describe."""
    return BoxMap(address=address, rows=rows, row_bytes=row_bytes, box_rows=box_rows)


@contextmanager
def interpreted(setting: Setting) -> Iterator[Setting]:
    """Every launch of a CUDA C++ kernel runs here meanwhile."""

    def kernel(source: Path, name: str, defines: Mapping[str, int], *, shared: int = 0) -> PtxKernel:
        return PtxKernel(source, name, tuple(sorted(defines.items())), shared, setting)

    with pytest.MonkeyPatch.context() as patch, poisoned():
        for module in (attention, prefill, linear, gated):
            patch.setattr(module, "kernel", kernel)
        patch.setattr(tensor_map, "describe", describe)
        for module in (prefill, gated):
            patch.setattr(module, "capability", lambda: (9, 0))
            patch.setattr(module, "num_processors", lambda: setting.processors)
        yield setting
