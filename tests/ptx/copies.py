"""Asynchronous copies to shared memory (cp.async), which land as late as they may: when a machine lets the barrier that is to be told
of them (cp.async.mbarrier.arrive) know, or when their own threads wait for them (cp.async.wait_group). From the issue on, what they will overwrite can no longer be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.ptx.access import shared_index
from tests.ptx.barriers import Barriers
from tests.ptx.faults import Fault
from tests.ptx.memory import Global, Shared
from tests.ptx.parse import Instruction
from tests.ptx.registers import Array, Threads

if TYPE_CHECKING:
    from tests.ptx.machine import Machine

PIECE = 16


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
    """cp.async of all threads of a block."""

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


def build(m: Machine, ins: Instruction) -> Callable[[Threads], Any]:
    """cp.async, its groups and its arrivals."""
    op, r = ins.opcode, m.registers
    if op[2:5] == ("mbarrier", "arrive", "noinc"):
        bar = shared_index(m, r.address(ins.operands[0]), 8)
        return lambda s: m.copies.arrive(m.ids[s], bar(s))
    if op[2:] == ("commit_group",):
        return lambda s: m.copies.commit(m.ids[s])
    if op[2:] == ("wait_group",) and ins.operands == ("0",):
        return lambda s: m.copies.wait(m.ids[s])
    if op[2:] != ("cg", "shared", "global") or len(ins.operands) != 4 or ins.operands[2] != "16":
        raise Fault(f"unknown copy {ins.where()}")
    index = shared_index(m, r.address(ins.operands[0]), 16)
    of, size = r.address(ins.operands[1]), r.source(ins.operands[3], "u32")

    def issue(s: Threads) -> None:
        threads = m.ids[s]
        m.copies.issue(threads, index(s), *(np.broadcast_to(values(s), threads.shape) for values in (of, size)))

    return issue
