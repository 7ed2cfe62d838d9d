"""Runs a kernel's clusters one after another: who runs next, who waits for what, and what a deadlock looks like.

Threads that stand at the same instruction run it together; each has its own place in the code. `.aligned` and `.sync` instructions
run once all their threads have come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tests.ptx import access, arithmetic, copies, meetings, warps
from tests.ptx.barriers import Barriers
from tests.ptx.copies import Arrivals, Box, Boxes, BoxMap, Copies
from tests.ptx.faults import Fault
from tests.ptx.memory import SHARED_BASE, Global, Shared
from tests.ptx.parse import Instruction, Kernel
from tests.ptx.registers import Array, Registers, Threads
from tests.ptx.wgmma import Wgmma

PARAMS = 0x7 << 56  # where tensor maps' addresses begin
NOTHING_TO_DO = {"griddepcontrol.launch_dependents", "createpolicy", "prefetch", "membar", "wgmma.fence"}
PLAIN, BRANCH, RETURN, MEETING, WAITING = range(5)
ASKEW = 48  # the dynamic array is promised to be aligned to 16 bytes, and no better
STUCK = 4  # rounds in which every wait gave up and nothing came of it


class Machine:
    def __init__(
        self, kernel: Kernel, arguments: list[int | BoxMap], memory: Global, *, threads: int, grid: tuple[int, int, int], shared: int,
        seed: int | None = None, early: dict[int, Array | None] | None = None,
    ) -> None:  # fmt: skip
        """`seed`: of a random order; None: the lowest place in the code first, copies as late as can be."""
        self.kernel, self.memory, self.grid, self.early = kernel, memory, grid, early
        self.random = None if seed is None else np.random.default_rng(seed)
        count = threads * kernel.cluster
        self.threads, self.ids = threads, np.arange(count)
        self.block, self.local = self.ids // threads, self.ids % threads
        self.warp = self.ids // 32
        self.warpgroup = self.block * -(-threads // 128) + self.local // 128
        self.maps: dict[int, BoxMap] = {}
        symbols = {name: SHARED_BASE + offset for name, offset in kernel.shared.items()}
        symbols[kernel.dynamic] = dynamic = SHARED_BASE + -(-kernel.static_bytes // 16) * 16 + ASKEW
        for i, (name, value) in enumerate(zip(kernel.params, arguments, strict=True)):
            if isinstance(value, BoxMap):
                self.maps[PARAMS + i] = value
            symbols[name] = PARAMS + i if isinstance(value, BoxMap) else value
        self.shared_bytes = dynamic + shared - SHARED_BASE
        self.registers = Registers(kernel.registers, count, symbols)
        self.steps: list[Callable[[Threads], Any] | None] = [None] * len(kernel.code)
        self.fenced: set[int] = set()  # products whose wgmma.fence was found
        self.kinds = [kind_of(ins) for ins in kernel.code]
        self.begin(0)

    def begin(self, cluster: int) -> None:
        """A fresh cluster."""
        size, count = self.kernel.cluster, len(self.ids)
        self.shared = Shared(size, self.shared_bytes, count)
        self.races, self.left = self.shared.races, np.zeros(size, int)
        self.barriers = Barriers(self.races)
        self.copies = Copies(self.memory, self.shared, self.barriers)
        self.boxes = Boxes(self.memory, self.shared, self.barriers)
        self.wgmma = Wgmma(self.registers, self.shared)
        self.registers.forget()
        self.waited = np.zeros(count, bool)
        self.wanted: dict[int, int] = {}  # registers a thread, by warpgroup, since its setmaxnreg
        self.ready: dict[int, Array] = {0: self.ids}
        self.parked: dict[int, Array] = {}  # at waits, which are tried again
        self.meeting: dict[int, Array] = {}  # at instructions that not all their threads have reached
        self.named: dict[tuple[int, int], meetings.NamedBarrier] = {}  # by block and name
        self.cluster = meetings.ClusterBarrier(count)
        rank = cluster * size + self.block
        x, y, _ = self.grid
        self.registers.special.update({
            "%tid.x": self.local, "%tid.y": 0 * self.ids, "%tid.z": 0 * self.ids, "%ntid.x": 0 * self.ids + self.threads,
            "%ctaid.x": rank % x, "%ctaid.y": rank // x % y, "%ctaid.z": rank // (x * y), "%laneid": self.local % 32,
            "%cluster_ctarank": self.block, "%cluster_ctaid.x": self.block, "%clusterid.x": rank % x // size,
            "%cluster_nctarank": 0 * self.ids + size, "%cluster_nctaid.x": 0 * self.ids + size,
            **{f"%nctaid.{axis}": 0 * self.ids + extent for axis, extent in zip("xyz", self.grid, strict=True)},
        })  # fmt: skip

    def run(self) -> None:
        size = self.kernel.cluster
        if self.grid[0] % size:
            raise Fault(f"a grid of {self.grid} is not made of clusters of {size}")
        with np.errstate(all="ignore"):
            for cluster in range(int(np.prod(self.grid)) // size):
                self.begin(cluster)
                self.run_cluster()

    def run_cluster(self) -> None:
        seen, rounds = -1, 0
        while self.ready or self.parked or self.meeting or self.held:
            if self.random is not None and self.under_way and self.random.random() < 0.05:
                self.land_one()
            if self.ready:
                self.turn()
            elif self.parked and self.barriers.events != seen:
                seen, rounds = self.barriers.events, 0
                self.wake()
            elif self.under_way:
                self.land_one()
            elif self.parked and rounds < STUCK:
                rounds += 1
                self.give_up()
            else:
                raise Fault(self.deadlock())
        if self.under_way:
            raise Fault(f"{len(self.under_way)} copies were still under way when their block ended")
        self.barriers.end()

    def wake(self) -> None:
        parked, self.parked = self.parked, {}
        for at, threads in parked.items():
            self.put(at, threads)

    def give_up(self) -> None:
        """Every try_wait comes to its time limit."""
        parked, self.parked = self.parked, {}
        for at, threads in parked.items():
            ins = self.kernel.code[at]
            if ins.opcode[0] == "mbarrier":
                self.registers.row(ins.operands[0])[threads] = False
            self.put(at + (ins.opcode[0] == "mbarrier"), threads)

    @property
    def held(self) -> dict[int, Array]:
        """By instruction: who waits at a named barrier."""
        return {at: threads for barrier in self.named.values() for at, threads in barrier.waiting}

    @property
    def under_way(self) -> list[Box | Arrivals]:
        return [*self.boxes.under_way, *self.copies.arrivals]

    def land_one(self) -> None:
        which = self.under_way[0 if self.random is None else int(self.random.integers(len(self.under_way)))]
        if isinstance(which, Arrivals):
            self.copies.complete(which)
        else:
            self.boxes.land(which)

    def put(self, at: int, threads: Array) -> None:
        if len(threads):
            self.ready[at] = joined(self.ready.get(at), threads)

    def turn(self) -> None:
        if self.random is None:
            at = min(self.ready)
            threads = self.ready.pop(at)
        else:
            at = int(self.random.choice(list(self.ready)))
            threads = self.ready.pop(at)
            if self.random.random() < 0.3:  # some warps alone
                chosen = self.random.random(int(self.warp[-1]) + 1)[self.warp[threads]] < 0.5
                self.put(at, threads[~chosen])
                threads = threads[chosen]
        if len(threads):
            try:
                self.go(at, threads)
            except Fault as fault:
                if "source line" in str(fault):
                    raise
                raise Fault(
                    f"{fault}, at {self.kernel.code[self.at].where()}, first thread {int(threads[0])}"
                ) from fault

    def go(self, at: int, threads: Array) -> None:
        """From `at` to the next instruction that others stand at, or that may part or hold these threads."""
        s = compact(threads)
        kinds, steps, ready = self.kinds, self.steps, self.ready
        while kinds[at] == PLAIN:
            self.at = at
            step = steps[at] or self.compile(at)
            step(s)
            at += 1
            if at in ready:
                self.put(at, threads)
                return
        self.at = at
        ins, kind = self.kernel.code[at], kinds[at]
        if kind == BRANCH:
            self.branch(at, ins, threads)
        elif kind == RETURN:
            self.leave(at, ins, threads)
        elif kind == MEETING:
            meetings.meet(self, at, ins, threads)
        else:
            meetings.wait(self, at, ins, threads)

    def guard(self, ins: Instruction, threads: Array) -> Array:
        """Which of `threads` an instruction's predicate lets run."""
        if not ins.guard:
            return np.ones(len(threads), bool)
        found: Array = self.registers.row(ins.guard)[threads] != ins.negated
        return found

    def branch(self, at: int, ins: Instruction, threads: Array) -> None:
        taken = self.guard(ins, threads)
        self.put(self.kernel.labels[ins.operands[0]], threads[taken])
        self.put(at + 1, threads[~taken])

    def leave(self, at: int, ins: Instruction, threads: Array) -> None:
        gone = self.guard(ins, threads)
        self.put(at + 1, threads[~gone])
        meetings.leave(self, threads[gone])

    def compile(self, at: int) -> Callable[[Threads], Any]:
        ins = self.kernel.code[at]
        step = self.build(ins)
        if ins.guard:
            plain, row = step, self.registers.row(ins.guard)

            def guarded(s: Threads) -> None:
                chosen = self.ids[s][row[s] != ins.negated]
                if len(chosen):
                    plain(compact(chosen))

            step = guarded
        self.steps[at] = step
        return step

    def build(self, ins: Instruction) -> Callable[[Threads], Any]:
        name, op = ins.opcode[0], ins.opcode
        if ".".join(op[:2]) in NOTHING_TO_DO or name in NOTHING_TO_DO:
            return lambda s: None
        if op == ("griddepcontrol", "wait"):
            return self.mark_waited
        if name in ACCESSES:
            return ACCESSES[name](self, ins)
        if name in COLLECTIVES:
            return COLLECTIVES[name](self.registers, ins)
        if name == "mbarrier":
            step: Callable[[Threads], Any] = meetings.mbarrier(self, ins)
            return step
        if op[:2] == ("cp", "async"):
            return copies.build(self, ins)
        return arithmetic.step(ins, self.registers)

    def mark_waited(self, s: Threads) -> None:
        self.waited[s] = True

    def deadlock(self) -> str:
        lines = ["no thread can go on:"]
        for what, places in (("waits", self.parked), ("not all came", self.meeting), ("waits for others", self.held)):
            for at, threads in places.items():
                spans = f"threads {int(threads[0])}-{int(threads[-1])} ({len(threads)})"
                lines.append(f"  {what}: {spans} at {self.kernel.code[at].where()}")
        lines += [f"  mbarrier at byte {i}: {bar}" for i, bar in sorted(self.barriers.found.items())]
        return "\n".join(lines)


ACCESSES: Mapping[str, Callable[..., Callable[[Threads], Any]]] = {
    "ld": access.load, "st": access.store, "atom": access.atomic, "mapa": access.map_rank, "fence": access.fence,
}  # fmt: skip
COLLECTIVES: Mapping[str, Callable[..., Callable[[Threads], Any]]] = {
    "shfl": warps.shuffle, "vote": warps.vote, "movmatrix": warps.transpose, "mma": warps.multiply,
}  # fmt: skip


def kind_of(ins: Instruction) -> int:
    name = ins.opcode[0]
    if name == "bra":
        return BRANCH
    if name in ("ret", "exit"):
        return RETURN
    if meetings.is_barrier(ins):
        return WAITING
    return MEETING if meetings.size_of(ins) else PLAIN


def compact(threads: Array) -> Threads:
    """A slice where there is one: it reads registers without copying."""
    first, last = int(threads[0]), int(threads[-1])
    return slice(first, last + 1) if last - first + 1 == len(threads) else threads


def joined(a: Array | None, b: Array) -> Array:
    return b if a is None else np.sort(np.concatenate((a, b)))
