"""Asynchronous copies to shared memory, which land as late as they may: cp.async at its thread's wait_group, TMA boxes and cp.async
that a barrier is told of (cp.async.mbarrier.arrive) when a machine lets them. From the issue on, what they will overwrite can no longer be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.ptx.access import shared_index
from tests.ptx.barriers import Barriers
from tests.ptx.faults import Fault
from tests.ptx.memory import Global, Shared, words_of
from tests.ptx.parse import Instruction
from tests.ptx.registers import Array, Threads
from torch import Tensor

if TYPE_CHECKING:
    from tests.ptx.machine import Machine

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
    epoch: Array  # of the threads when they asked

    def chosen(self, which: Array) -> Pieces:
        return Pieces(*(getattr(self, name)[which] for name in ("threads", "group", "to", "of", "size", "epoch")))


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Arrivals:
    """Of threads at barriers, once the copies of their groups up to `group` have landed."""

    threads: Array
    barriers: Array  # byte indices
    group: Array
    clocks: Array  # what each thread had seen when it asked


class Copies:
    """cp.async of all threads of a cluster."""

    def __init__(self, memory: Global, shared: Shared, barriers: Barriers, threads: int) -> None:
        self._memory, self._shared, self._barriers, self._threads = memory, shared, barriers, threads
        self.arrivals: list[Arrivals] = []
        self._group = np.zeros(threads, np.int64)  # each thread's open one
        self._under_way: list[Pieces] = []

    def issue(self, threads: Array, to: Array, of: Array, size: Array) -> None:
        self._shared.promise(to, threads)
        # Copies: operands are views of registers, which will hold other values when this lands.
        epochs = self._shared.races.epochs[threads]
        self._under_way.append(Pieces(threads, self._group[threads], to.copy(), of.copy(), size.copy(), epochs))

    def commit(self, threads: Array) -> None:
        self._group[threads] += 1

    def wait(self, threads: Array, most: int) -> None:
        """All but the `most` newest committed groups of these threads have landed."""
        limit = np.full(self._threads, -1, np.int64)
        limit[threads] = self._group[threads] - most
        self.land_before(limit)

    def arrive(self, threads: Array, barriers: Array) -> None:
        """cp.async.mbarrier.arrive.noinc: these threads arrive when all they have asked for has landed."""
        for index in np.unique(barriers):
            self._barriers.at(int(index))
        self.commit(threads)
        races = self._shared.races
        asked = Arrivals(
            threads=threads, barriers=barriers.copy(), group=self._group[threads], clocks=races.seen[threads].copy()
        )
        self.arrivals.append(asked)
        races.begin(threads)

    def complete(self, which: Arrivals) -> None:
        self.arrivals.remove(which)
        limit = np.full(self._threads, -1, np.int64)
        limit[which.threads] = which.group
        self.land_before(limit)
        for index, clock in zip(which.barriers.tolist(), which.clocks, strict=True):
            self._barriers.arrive_with(index, clock)

    def land_before(self, limit: Array) -> None:
        """What each thread asked for in groups below its limit."""
        rest = []
        for p in self._under_way:
            due = p.group < limit[p.threads]
            if due.any():
                self.land(p.chosen(due))
            if not due.all():
                rest.append(p.chosen(~due))
        self._under_way = rest

    def land(self, p: Pieces) -> None:
        if not np.isin(p.size, (0, PIECE)).all():
            raise Fault("cp.async copies a part of its 16 bytes")
        words = np.zeros((len(p.to), PIECE // 4), np.uint32)
        real = p.size > 0
        if real.any():
            words[real] = self._memory.load(p.of[real], 4, PIECE // 4)
        self._shared.store(p.to, words, p.threads, p.epoch)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Box:
    map: BoxMap
    x: int
    y: int
    block: int
    to: int  # shared address
    barrier: int  # byte index
    thread: int  # who asked for it
    clock: Array  # what that thread had seen then


class Boxes:
    """TMA's (cp.async.bulk.tensor.2d), of a cluster."""

    def __init__(self, memory: Global, shared: Shared, barriers: Barriers) -> None:
        self._memory, self._shared, self._barriers = memory, shared, barriers
        self.under_way: list[Box] = []

    def issue(self, box: Box) -> None:
        if box.to % 128 or box.map.box_rows > 256 or box.map.row_bytes % 16:
            raise Fault(f"a box of {box.map.box_rows} rows of {box.map.row_bytes} bytes goes to {box.to:#x}: forbidden")
        self._shared.promise(self.places(box).reshape(-1), np.array([box.thread]))
        self.under_way.append(box)
        self._shared.races.begin(np.array([box.thread]))

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
        thread = np.array([box.thread])
        self._shared.races.wrote(thread, words_of(pieces)[None], box.clock[thread])
        self._barriers.complete(box.barrier, data.size, box.clock)


def selected(values: Any, threads: Array) -> Array:
    """An operand's values over `threads`, of which it may be one for all."""
    return np.broadcast_to(values, threads.shape)


def build(m: Machine, ins: Instruction) -> Callable[[Threads], Any]:
    """cp.async, its arrivals and cp.async.bulk.tensor.2d."""
    op, r = ins.opcode, m.registers
    if op[2:5] == ("mbarrier", "arrive", "noinc"):
        bar = shared_index(m, ins, r.address(ins.operands[0]), 8)
        return lambda s: m.copies.arrive(m.ids[s], bar(s))
    if op[2] == "commit_group":
        return lambda s: m.copies.commit(m.ids[s])
    if op[2] == "wait_group":
        return lambda s: m.copies.wait(m.ids[s], int(ins.operands[0]))
    if op[2] == "bulk":
        return copy_box(m, ins)
    if op[2:5] != ("cg", "shared", "global") or ins.operands[2] != "16":
        raise Fault(f"unknown copy {ins.where()}")
    index = shared_index(m, ins, r.address(ins.operands[0]), 16)
    of, size = r.address(ins.operands[1]), r.source(ins.operands[3] if len(ins.operands) > 3 else "16", "u32")
    return lambda s: m.copies.issue(m.ids[s], index(s), selected(of(s), m.ids[s]), selected(size(s), m.ids[s]))


def copy_box(m: Machine, ins: Instruction) -> Callable[[Threads], Any]:
    if ins.opcode[3:5] != ("tensor", "2d") or "mbarrier::complete_tx::bytes" not in ins.opcode:
        raise Fault(f"unknown copy {ins.where()}")
    r = m.registers
    to, bar = r.address(ins.operands[0]), r.address(ins.operands[2])
    where, _, place = ins.operands[1].strip("[] ").partition(",")
    of, (x, y) = r.address(where), (r.source(part.strip(), "s32") for part in place.strip(" {}").split(","))

    def step(s: Threads) -> None:
        threads = m.ids[s]
        values = [selected(source(s), threads).tolist() for source in (to, of, x, y, bar)]
        for thread, at, address, column, row, barrier in zip(threads, *values, strict=True):
            block = int(m.block[thread])
            index = int(m.shared.index(block, np.array([barrier]), 8)[0])
            m.barriers.at(index)
            if m.early is not None and not m.waited[thread] and m.maps[address].address >> 32 not in m.early:
                raise Fault("a box of what the previous kernel writes is asked for before griddepcontrol.wait")
            m.boxes.issue(
                Box(
                    map=m.maps[address], x=column, y=row, block=block, to=at, barrier=index, thread=int(thread),
                    clock=m.races.seen[thread].copy(),
                )
            )  # fmt: skip

    return step
