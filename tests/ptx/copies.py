"""Asynchronous copies to shared memory, which land as late as they may: cp.async at its thread's wait_group, TMA boxes when a
machine lets them. From the issue on, what they will overwrite can no longer be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tests.ptx.barriers import Barriers
from tests.ptx.faults import Fault
from tests.ptx.memory import Global, Shared
from tests.ptx.registers import Array
from torch import Tensor

PIECE = 16


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class BoxMap:
    """A CUtensorMap of bytes: boxes 128 bytes wide, 128-byte swizzle, zeros outside."""

    matrix: Tensor
    row_bytes: int
    rows: int
    box_rows: int
    address: int = 0  # of the matrix, in the machine that runs


@dataclass(slots=True)
class Pieces:
    """Of one cp.async instruction: threads, their open group then, and what goes where."""

    threads: Array
    group: Array
    to: Array
    of: Array
    size: Array  # bytes that are copied; zeros follow


class Copies:
    """cp.async of all threads of a cluster."""

    def __init__(self, memory: Global, shared: Shared, threads: int) -> None:
        self._memory, self._shared, self._threads = memory, shared, threads
        self._group = np.zeros(threads, np.int64)  # each thread's open one
        self._under_way: list[Pieces] = []

    def issue(self, threads: Array, to: Array, of: Array, size: Array) -> None:
        self._shared.promise(to, PIECE)
        # Copies: operands are views of registers, which will hold other values when this lands.
        self._under_way.append(Pieces(threads, self._group[threads], to.copy(), of.copy(), size.copy()))

    def commit(self, threads: Array) -> None:
        self._group[threads] += 1

    def wait(self, threads: Array, most: int) -> None:
        """All but the `most` newest committed groups of these threads have landed."""
        limit = np.full(self._threads, -1, np.int64)
        limit[threads] = self._group[threads] - most
        rest = []
        for p in self._under_way:
            due = p.group < limit[p.threads]
            if due.any():
                self.land(Pieces(p.threads[due], p.group[due], p.to[due], p.of[due], p.size[due]))
            if not due.all():
                rest.append(Pieces(p.threads[~due], p.group[~due], p.to[~due], p.of[~due], p.size[~due]))
        self._under_way = rest

    def land(self, p: Pieces) -> None:
        if not np.isin(p.size, (0, PIECE)).all():
            raise Fault("cp.async copies a part of its 16 bytes")
        words = np.zeros((len(p.to), PIECE // 4), np.uint32)
        real = p.size > 0
        if real.any():
            words[real] = self._memory.load(p.of[real], 4, PIECE // 4)
        self._shared.store(p.to, words, p.threads)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Box:
    map: BoxMap
    x: int
    y: int
    block: int
    to: int  # shared address
    barrier: int  # byte index


class Boxes:
    """TMA's (cp.async.bulk.tensor.2d), of a cluster."""

    def __init__(self, memory: Global, shared: Shared, barriers: Barriers) -> None:
        self._memory, self._shared, self._barriers = memory, shared, barriers
        self.under_way: list[Box] = []

    def issue(self, box: Box) -> None:
        if box.to % 128 or box.map.box_rows > 256 or box.map.row_bytes % 16:
            raise Fault(f"a box of {box.map.box_rows} rows of {box.map.row_bytes} bytes goes to {box.to:#x}: forbidden")
        self._shared.promise(self.places(box).reshape(-1), PIECE)
        self.under_way.append(box)

    def places(self, box: Box) -> Array:
        """Byte index (rows, 8) of each 16-byte piece: bits 4-6 of an address take in bits 7-9."""
        address = box.to + 128 * np.arange(box.map.box_rows)[:, None] + PIECE * np.arange(8)
        return self._shared.index(box.block, address ^ (address >> 7 & 7) << 4, PIECE)

    def land(self, box: Box) -> None:
        """Bytes, zeros where the box hangs over the matrix's edge, then their count to the barrier."""
        self.under_way.remove(box)
        source = self._memory.bytes_of(box.map.address)[: box.map.rows * box.map.row_bytes].reshape(box.map.rows, -1)
        data = np.zeros((box.map.box_rows, 128), np.uint8)
        top, left = max(box.y, 0), max(box.x, 0)
        part = source[top : box.y + box.map.box_rows, left : box.x + 128]
        if part.size:
            data[top - box.y : top - box.y + len(part), left - box.x : left - box.x + part.shape[1]] = part
        pieces = self.places(box) // PIECE
        if self._shared.writer.reshape(-1, 4)[pieces].any():
            raise Fault(f"a box lands at {box.to:#x}, where a thread wrote without fence.proxy.async")
        self._shared.data.reshape(-1, PIECE)[pieces] = data.reshape(-1, 8, PIECE)
        self._shared.known.reshape(-1, PIECE)[pieces] = 0xFF
        self._barriers.complete(box.barrier, data.size)


def selected(values: Any, threads: Array) -> Array:
    """An operand's values over `threads`, of which it may be one for all."""
    return np.broadcast_to(values, threads.shape)
