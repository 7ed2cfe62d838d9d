"""Instructions at which threads wait: for the rest of their warp or warpgroup, for a barrier, for a phase."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.ptx.access import shared_index
from tests.ptx.faults import Fault
from tests.ptx.parse import Instruction
from tests.ptx.registers import Array, Threads

if TYPE_CHECKING:
    from tests.ptx.machine import Machine

WARP, WARPGROUP = 32, 128
REGISTERS = 1 << 16  # of a processor
CLUSTER = "cluster"  # its barrier's key among the clocks
ARRIVALS = {"expect_tx", "release", "cta", "cluster", "shared::cta", "shared::cluster", "b64"}
OFTEN = 0.2  # how often, in random order, a wait gives up at once


def size_of(ins: Instruction) -> int:
    """How many threads run this together; 0: each by itself."""
    if ins.opcode[:2] == ("wgmma", "mma_async") or ins.opcode[0] == "setmaxnreg":
        return WARPGROUP
    if ins.opcode[0] in ("shfl", "vote", "movmatrix", "mma", "wgmma"):
        return WARP
    if ins.opcode[:2] in (("bar", "warp"), ("barrier", "cluster")):
        return WARP
    return 0


def is_barrier(ins: Instruction) -> bool:
    """Whether it may hold its threads, or let others go."""
    return ins.opcode[:2] in (("mbarrier", "try_wait"), ("bar", "sync"))


def meet(m: Machine, at: int, ins: Instruction, threads: Array) -> None:
    """Runs the instruction for every group that is complete."""
    if ins.guard:
        raise Fault(f"a guarded instruction of a whole warp: {ins.where()}")
    if at in m.meeting:
        threads = np.sort(np.concatenate((m.meeting.pop(at), threads)))
    size = size_of(ins)
    key = (m.warp if size == WARP else m.warpgroup)[threads]
    full = (np.bincount(key) == size)[key]
    if not full.all():
        m.meeting[at] = threads[~full]
    going = threads[full]
    if not len(going):
        return
    if ins.opcode[0] == "barrier":
        cluster(m, at, ins, going)
        return
    if ins.opcode[0] == "bar":
        m.races.meet(going, WARP)
    elif ins.opcode[0] == "wgmma":
        products(m, at, ins, going)
    elif ins.opcode[0] == "setmaxnreg":
        share_registers(m, int(ins.operands[0]), going)
    else:
        first, last = int(going[0]), int(going[-1])
        step = m.steps[at] or m.compile(at)
        step(slice(first, last + 1) if last - first + 1 == len(going) else going)
    m.put(at + 1, going)


def share_registers(m: Machine, count: int, threads: Array) -> None:
    """setmaxnreg: an increase would wait for ever for registers that no decrease gives back. At its launch a kernel of one block a
    processor has as many a thread as there are, in eights."""
    m.wanted.update({int(group): count for group in m.warpgroup[threads[::WARPGROUP]]})
    most = REGISTERS // m.threads // 8 * 8 * m.threads
    for block in np.unique(m.block[threads]):
        groups = np.unique(m.warpgroup[m.block == block])[: m.threads // WARPGROUP].tolist()
        wanted = [m.wanted[group] * WARPGROUP for group in groups if group in m.wanted]
        if len(wanted) == len(groups) and sum(wanted) > most:
            raise Fault(f"warpgroups want {sum(wanted)} registers of the {most} that their block has")


def products(m: Machine, at: int, ins: Instruction, threads: Array) -> None:
    match ins.opcode[1]:
        case "mma_async":
            check_fence(m, at, ins)
            for group in threads.reshape(-1, WARPGROUP):
                m.wgmma.issue(ins, group, int(m.block[group[0]]))
        case "commit_group":
            m.wgmma.commit(m.warp[threads[::WARP]])
        case "wait_group":
            m.wgmma.wait(m.warp[threads[::WARP]], int(ins.operands[0]))


def check_fence(m: Machine, at: int, ins: Instruction) -> None:
    """No register of a product is written, but by products, between wgmma.fence and it; where both are in one straight run."""
    if at in m.fenced:
        return
    used = {part.strip() for operand in ins.operands[:2] for part in operand.strip("{}").split(",")}
    targets = set(m.kernel.labels.values())
    for before in range(at - 1, -1, -1):
        earlier = m.kernel.code[before]
        if earlier.opcode[:2] == ("wgmma", "fence"):
            break
        if before + 1 in targets or earlier.opcode[0] in ("bra", "ret"):
            raise Fault(f"no wgmma.fence before {ins.where()}")
        written = {part.strip() for part in earlier.operands[0].strip("{}").split(",")} if earlier.operands else set()
        if earlier.opcode[0] != "wgmma" and written & used & {name for name in used if not name.startswith("%rd")}:
            raise Fault(f"{earlier.where()} writes what {ins.where()} uses, after wgmma.fence")
    m.fenced.add(at)


@dataclass(slots=True)
class NamedBarrier:
    """bar.sync: who waits, from which instruction."""

    waiting: list[tuple[int, Array]] = field(default_factory=list)


def wait(m: Machine, at: int, ins: Instruction, threads: Array) -> None:
    if ins.guard:
        raise Fault(f"a guarded wait: {ins.where()}")
    if ins.opcode[0] == "bar":
        named(m, at, ins, threads)
        return
    if ins.opcode[2] != "parity":
        raise Fault(f"unknown wait {ins.where()}")
    r = m.registers
    index = shared_index(m, ins, r.address(ins.operands[1]), 8)(threads)
    parity = np.broadcast_to(r.source(ins.operands[2], "u32")(threads), threads.shape)
    done = np.array([m.barriers.at(i).passed(p) for i, p in zip(index.tolist(), parity.tolist(), strict=True)])
    m.races.follow(threads, index[:, None] // 4)
    for key in set(index[done].tolist()):
        m.races.acquire(key, threads[done & (index == key)])
    gives_up = m.random is not None and m.random.random() < OFTEN
    going = np.ones(len(threads), bool) if gives_up else done
    r.row(ins.operands[0])[threads[going]] = done[going]
    m.put(at + 1, threads[going])
    if not going.all():
        m.parked[at] = np.sort(np.concatenate((m.parked.get(at, threads[:0]), threads[~going])))


def named(m: Machine, at: int, ins: Instruction, threads: Array) -> None:
    """bar.sync name{, count}: whole warps."""
    names = np.broadcast_to(m.registers.source(ins.operands[0], "u32")(threads), threads.shape)
    count = int(ins.operands[1]) if len(ins.operands) > 1 else m.threads
    for block, name in sorted(set(zip(m.block[threads].tolist(), names.tolist(), strict=True))):
        key, some = (block, name), threads[(m.block[threads] == block) & (names == name)]
        found = m.named.setdefault(key, NamedBarrier())
        found.waiting.append((at, some))
        come = sum(len(part) for _, part in found.waiting)
        if come > count or count % WARP:
            raise Fault(f"{come} threads at barrier {name}, which is for {count}")
        m.races.release(key, some)
        if come == count:
            del m.named[key]
            m.races.complete(key)
            for place, part in found.waiting:
                m.races.acquire(key, part)
                m.put(place + 1, part)


@dataclass(slots=True)
class ClusterBarrier:
    """barrier.cluster: phases of all threads that have not left."""

    threads: int
    phase: int = 0
    arrived: int = 0
    own: dict[int, int] = field(default_factory=dict)  # the phase that a thread has arrived in, plus one

    def arrive(self, threads: Array) -> bool:
        for thread in threads.tolist():
            if self.own.get(thread, 0) > self.phase:
                raise Fault(f"thread {thread} arrives twice at the cluster's barrier")
            self.own[thread] = self.phase + 1
        self.arrived += len(threads)
        return self.finish()

    def leave(self, count: int) -> bool:
        self.threads -= count
        return self.finish()

    def finish(self) -> bool:
        """Whether a phase is over."""
        over = 0 < self.arrived >= self.threads
        if over:
            self.phase, self.arrived = self.phase + 1, 0
        return over

    def passed(self, thread: int) -> bool:
        if thread not in self.own:
            raise Fault(f"thread {thread} waits at the cluster's barrier without having arrived")
        return self.own[thread] <= self.phase


def cluster(m: Machine, at: int, ins: Instruction, threads: Array) -> None:
    """barrier.cluster.arrive, which goes on at once, and barrier.cluster.wait: whole warps."""
    if not set(ins.opcode[2:]) <= {"arrive", "wait", "release", "acquire", "relaxed", "aligned"}:
        raise Fault(f"unknown barrier instruction {ins.where()}")
    if ins.opcode[2] == "arrive":
        if "relaxed" in ins.opcode:
            m.races.add(CLUSTER, np.zeros(len(m.ids), np.int32))
        else:
            m.races.release(CLUSTER, threads)
        if m.cluster.arrive(threads):
            m.races.complete(CLUSTER)
        m.barriers.events += 1
        m.put(at + 1, threads)
        return
    passed = np.array([m.cluster.passed(thread) for thread in threads.tolist()])
    m.races.acquire(CLUSTER, threads[passed])
    m.put(at + 1, threads[passed])
    if not passed.all():
        m.parked[at] = np.sort(np.concatenate((m.parked.get(at, threads[:0]), threads[~passed])))


def leave(m: Machine, threads: Array) -> None:
    """`threads` are done. Nobody may use the memory of a block that is gone."""
    np.add.at(m.left, m.block[threads], 1)
    ending = np.unique(m.block[threads])
    for block in ending[m.left[ending] == m.threads].tolist():
        words, own = m.shared.size // 4, m.threads
        m.races.end(slice(block * own, block * own + own), slice(block * words, block * words + words))
        m.shared.gone[block] = True
    if m.cluster.leave(len(threads)):
        m.races.complete(CLUSTER)
    m.barriers.events += 1


def mbarrier(m: Machine, ins: Instruction) -> Any:
    """init, arrive (of this block's or another's), arrive.expect_tx: thread by thread."""
    op, r = ins.opcode, m.registers
    init = op == ("mbarrier", "init", "shared::cta", "b64")
    with_count = init or op[2] == "expect_tx"
    known = op[1] == "arrive" and ins.operands[0] == "_" and "b64" in op and set(op[2:]) <= ARRIVALS
    if not (init or known) or len(ins.operands) != 2 + (with_count and not init):
        raise Fault(f"unknown barrier instruction {ins.where()}")
    index = shared_index(m, ins, r.address(ins.operands[0 if init else 1]), 8)
    count = r.source(ins.operands[-1], "u32") if with_count else None

    def step(s: Threads) -> None:
        threads, places = m.ids[s], index(s)
        words = places[:, None] // 4
        counts = np.broadcast_to(0 if count is None else count(s), threads.shape)
        if init:
            m.races.write(threads, words)
        else:
            m.races.follow(threads, words)
            abroad = places // m.shared.size != m.block[threads]
            m.races.touch(threads[abroad], words[abroad])
        for thread, place, n in zip(threads.tolist(), places.tolist(), counts.tolist(), strict=True):
            if init:
                m.barriers.init(place, n, thread)
            else:
                m.barriers.arrive(place, thread, n)

    return step
