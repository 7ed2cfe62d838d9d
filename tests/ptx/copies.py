"""Asynchronous copies to shared memory, which land as late as they may: cp.async when a machine lets the barrier that is to be told
of them (cp.async.mbarrier.arrive) know or their own threads wait for them (cp.async.wait_group), TMA boxes
(cp.async.bulk.tensor.2d) each by itself. From the issue on, what they will overwrite can no longer be read.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tests.ptx.access import shared_index
from tests.ptx.barriers import Barriers
from tests.ptx.faults import Fault
from tests.ptx.memory import RANK, SPAN, Global, Shared, words_of
from tests.ptx.parse import Instruction
from tests.ptx.registers import Array, Threads

if TYPE_CHECKING:
    from tests.ptx.machine import Machine

PIECE = 16
BOX_FORM = ("mbarrier::complete_tx::bytes", "multicast::cluster", "L2::cache_hint")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxMap:
    """A CUtensorMap of bytes: boxes 128 bytes wide, 128-byte swizzle, zeros outside."""

    address: int  # of this process, then in the machine that runs
    rows: int
    row_bytes: int
    box_rows: int

    def matrix(self) -> torch.Tensor:
        """What lies at the address, as bytes: its owner must live as long as the launch, as on the GPU."""
        memory = (ctypes.c_ubyte * (self.rows * self.row_bytes)).from_address(self.address)
        return torch.frombuffer(memory, dtype=torch.uint8)


@dataclass(slots=True)
class Pieces:
    """Of one cp.async instruction, the `order`-th: what goes where."""

    order: int
    threads: Array
    to: Array
    of: Array
    size: Array  # bytes that are copied; zeros follow
    epoch: Array  # of the threads when they asked

    def chosen(self, which: Array) -> Pieces:
        return Pieces(self.order, *(getattr(self, name)[which] for name in ("threads", "to", "of", "size", "epoch")))


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Arrivals:
    """Of threads at barriers, once what they asked for `before` that instruction has landed."""

    threads: Array
    barriers: Array  # byte indices
    before: int
    clocks: Array  # what each thread had seen when it asked


class Copies:
    """cp.async of all threads of a cluster."""

    def __init__(self, memory: Global, shared: Shared, barriers: Barriers) -> None:
        self._memory, self._shared, self._barriers = memory, shared, barriers
        self.arrivals: list[Arrivals] = []
        self._issued = 0
        self._under_way: list[Pieces] = []
        self._committed = np.zeros(len(shared.races.epochs), np.int64)  # of each thread: those asked for before

    def issue(self, threads: Array, to: Array, of: Array, size: Array) -> None:
        self._shared.promise(to, threads)
        # Copies: operands are views of registers, which will hold other values when this lands.
        epochs = self._shared.races.epochs[threads]
        self._under_way.append(Pieces(self._issued, threads, to.copy(), of.copy(), size.copy(), epochs))
        self._issued += 1

    def arrive(self, threads: Array, barriers: Array) -> None:
        """cp.async.mbarrier.arrive.noinc: these threads arrive when all they have asked for has landed."""
        for index in np.unique(barriers):
            self._barriers.at(int(index))
        races = self._shared.races
        asked = Arrivals(
            threads=threads, barriers=barriers.copy(), before=self._issued, clocks=races.seen[threads].copy()
        )
        self.arrivals.append(asked)
        races.begin(threads)

    def commit(self, threads: Array) -> None:
        self._committed[threads] = self._issued

    def wait(self, threads: Array) -> None:
        """cp.async.wait_group 0: all that these threads have committed lands."""
        self._land_all(lambda p: np.isin(p.threads, threads) & (p.order < self._committed[p.threads]))

    def complete(self, which: Arrivals) -> None:
        self.arrivals.remove(which)
        self._land_all(lambda p: np.isin(p.threads, which.threads) & (p.order < which.before))
        for index, clock in zip(which.barriers.tolist(), which.clocks, strict=True):
            self._barriers.arrive_with(index, clock)

    def _land_all(self, due_of: Callable[[Pieces], Array]) -> None:
        rest = []
        for p in self._under_way:
            due = due_of(p)
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
    """One block's: a multicast is one of each block of its mask."""

    map: BoxMap
    x: int  # bytes
    y: int
    block: int
    to: int  # shared address
    barrier: int  # byte index
    thread: int  # who asked for it
    clock: Array  # what that thread had seen then


class Boxes:
    """TMA's, of a cluster."""

    def __init__(self, memory: Global, shared: Shared, barriers: Barriers) -> None:
        self._memory, self._shared, self._barriers = memory, shared, barriers
        self.under_way: list[Box] = []

    def issue(self, box: Box) -> None:
        if box.to % 128 or not 1 <= box.map.box_rows <= 256 or box.map.row_bytes % 16:
            raise Fault(f"a box of {box.map.box_rows} rows of {box.map.row_bytes} bytes goes to {box.to:#x}: forbidden")
        if self._shared.gone[box.block]:
            raise Fault("the shared memory of a block is used that has ended")
        self._barriers.at(box.barrier)
        thread = np.array([box.thread])
        self._shared.races.follow(thread, np.array([[box.barrier // 4]]))
        if box.barrier in self._barriers.hidden:
            raise Fault("the copy engine is told of an mbarrier that nobody fenced after its init")
        self._shared.promise(self.places(box).reshape(-1), thread)
        self.under_way.append(box)

    def places(self, box: Box) -> Array:
        """Byte index (rows, 8) of each 16-byte piece: bits 4-6 of an address take in bits 7-9."""
        address = box.to + 128 * np.arange(box.map.box_rows)[:, None] + PIECE * np.arange(8)
        return self._shared.index(box.block, address ^ (address >> 7 & 7) << 4, PIECE)

    def land(self, box: Box) -> None:
        """Bytes, zeros where the box hangs over the matrix's edge, then their count to the barrier."""
        self.under_way.remove(box)
        if self._shared.gone[box.block]:
            raise Fault(f"block {box.block} of the cluster has ended before a box came that it was to get")
        source = self._memory.bytes_of(box.map.address)[: box.map.rows * box.map.row_bytes].reshape(box.map.rows, -1)
        data = np.zeros((box.map.box_rows, 128), np.uint8)
        top, left = max(box.y, 0), max(box.x, 0)
        part = source[top : max(box.y + box.map.box_rows, 0), left : max(box.x + 128, 0)]
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


def build(m: Machine, ins: Instruction) -> Callable[[Threads], Any]:
    """cp.async, its groups, its arrivals and cp.async.bulk.tensor.2d."""
    op, r = ins.opcode, m.registers
    if op[2:5] == ("bulk", "prefetch", "tensor"):
        return lambda s: None
    if op[2] == "bulk":
        return copy_box(m, ins)
    if op[2:5] == ("mbarrier", "arrive", "noinc"):
        bar = shared_index(m, ins, r.address(ins.operands[0]), 8)
        return lambda s: m.copies.arrive(m.ids[s], bar(s))
    if op[2:] == ("commit_group",):
        return lambda s: m.copies.commit(m.ids[s])
    if op[2:] == ("wait_group",) and ins.operands == ("0",):
        return lambda s: m.copies.wait(m.ids[s])
    if op[2:] != ("cg", "shared", "global") or len(ins.operands) != 4 or ins.operands[2] != "16":
        raise Fault(f"unknown copy {ins.where()}")
    index = shared_index(m, ins, r.address(ins.operands[0]), 16)
    of, size = r.address(ins.operands[1]), r.source(ins.operands[3], "u32")

    def issue(s: Threads) -> None:
        threads = m.ids[s]
        m.copies.issue(threads, index(s), *(np.broadcast_to(values(s), threads.shape) for values in (of, size)))

    return issue


def copy_box(m: Machine, ins: Instruction) -> Callable[[Threads], Any]:
    """cp.async.bulk.tensor.2d from global memory, to one's own block or, by a mask, to several of the cluster."""
    op, r = tuple(part for part in ins.opcode if part != "tile"), m.registers
    multicast = "multicast::cluster" in op
    known = {("shared::cluster", "global")} if multicast else {("shared::cluster", "global"), ("shared::cta", "global")}
    rest = tuple(name for name in BOX_FORM if name in op)
    if op[3:5] != ("tensor", "2d") or op[5:7] not in known or op[7:] != rest or BOX_FORM[0] not in rest:
        raise Fault(f"unknown copy {ins.where()}")
    to, bar = r.address(ins.operands[0]), r.address(ins.operands[2])
    where, _, place = ins.operands[1].strip("[] ").partition(",")
    of, (x, y) = r.address(where), (r.source(part.strip(), "s32") for part in place.strip(" {}").split(","))
    mask = r.source(ins.operands[3], "u16") if multicast else None

    def step(s: Threads) -> None:
        threads = m.ids[s]
        masks = 1 << m.block[threads] if mask is None else mask(s)
        values = [
            np.broadcast_to(part, threads.shape).tolist() for part in (*(f(s) for f in (to, of, x, y, bar)), masks)
        ]
        for thread, at, address, column, row, barrier, among in zip(threads.tolist(), *values, strict=True):
            if address not in m.maps:
                raise Fault("a box is asked for of what is no tensor map among the kernel's parameters")
            if (
                m.early is not None
                and not m.waited[thread]
                and m.early.get(m.maps[address].address >> SPAN, 0) is not None
            ):
                raise Fault("a box of what the previous kernel writes is asked for before griddepcontrol.wait")
            for block in blocks(m, int(m.block[thread]), (at, barrier), among):
                own = (1 << RANK) - 1
                m.boxes.issue(
                    Box(
                        map=m.maps[address], x=column, y=row, block=block, to=at & own,
                        barrier=int(m.shared.index(block, np.array([barrier & own]), 8)[0]),
                        thread=thread, clock=m.races.seen[thread].copy(),
                    )
                )  # fmt: skip
            m.races.begin(np.array([thread]))

    return step


def blocks(m: Machine, own: int, addresses: tuple[int, int], mask: int) -> list[int]:
    """Whom a box goes to that a thread of block `own` asks for, by its own addresses."""
    if not {address >> RANK for address in addresses} <= {0, own + 1}:
        raise Fault(
            "a box goes to another block's memory, or tells another block's mbarrier, otherwise than by multicast"
        )
    if not 0 < mask < 1 << m.shared.blocks:
        raise Fault(f"a box goes to the blocks {mask:#b} of a cluster of {m.shared.blocks}")
    return [block for block in range(m.shared.blocks) if mask >> block & 1]
