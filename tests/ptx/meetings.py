"""Instructions at which threads wait: for the rest of their warp or warpgroup, for a barrier, for a phase."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.ptx.faults import Fault
from tests.ptx.parse import Instruction
from tests.ptx.registers import Array, Threads

if TYPE_CHECKING:
    from tests.ptx.machine import Machine

WARP, WARPGROUP = 32, 128
CLUSTER = "cluster"  # its barrier's key among the clocks
REGISTERS = 1 << 16  # of a processor
OFTEN = 0.2  # how often, in random order, a wait gives up at once


def size_of(ins: Instruction) -> int:
    """How many threads run this together; 0: each by itself."""
    if ins.opcode[:2] == ("wgmma", "mma_async") or ins.opcode[0] == "setmaxnreg":
        return WARPGROUP
    if ins.opcode[0] in ("shfl", "vote", "movmatrix", "mma", "wgmma") or ins.opcode[:2] in (
        ("bar", "warp"),
        ("barrier", "cluster"),
    ):
        return WARP
    return 0


def is_wait(ins: Instruction) -> bool:
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
    if ins.opcode[:2] == ("barrier", "cluster"):
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
    m.held.update({int(group): count for group in m.warpgroup[threads[::WARPGROUP]]})
    groups = m.threads // WARPGROUP
    at_launch = REGISTERS // m.threads // 8 * 8
    for block in {int(block) for block in m.block[threads]}:
        held = [m.held.get(block * groups + i) for i in range(groups)]
        wanted = sum(each for each in held if each is not None) * WARPGROUP
        if None not in held and wanted > at_launch * m.threads:
            raise Fault(f"warpgroups want {wanted} registers of the {at_launch * m.threads} that their block has")


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
class NamedBarriers:
    """bar.sync of each block: who waits at which, from which instruction."""

    threads: int  # of a block
    waiting: dict[tuple[int, int], list[tuple[int, Array]]] = field(default_factory=dict)

    def places(self) -> list[tuple[str, dict[int, Array]]]:
        return [(f"barrier {name} of block {block}", dict(found)) for (block, name), found in self.waiting.items()]


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
    if ins.opcode[2] == "arrive":
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


def left(m: Machine, threads: Array) -> bool:
    """`threads` are done; whether that ends a phase of the cluster's barrier. Nobody may use the memory of a block that is gone."""
    for block in np.unique(m.block[threads]).tolist():
        words, own = m.shared.size // 4, m.threads
        ending = threads[m.block[threads] == block]
        m.races.end(ending, slice(block * words, block * words + words), slice(block * own, block * own + own))
        m.left[block] += len(ending)
    m.shared.gone = m.left == m.threads
    return m.cluster.leave(len(threads))


def wait(m: Machine, at: int, ins: Instruction, threads: Array) -> None:
    if ins.guard:
        raise Fault(f"a guarded wait: {ins.where()}")
    if ins.opcode[0] == "bar":
        named(m, at, ins, threads)
        return
    if ins.opcode[2] != "parity":
        raise Fault(f"unknown wait {ins.where()}")
    r = m.registers
    index = m.shared.index(m.block[threads], np.broadcast_to(r.address(ins.operands[1])(threads), threads.shape), 8)
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
    r = m.registers
    names = np.broadcast_to(r.source(ins.operands[0], "u32")(threads), threads.shape)
    count = int(ins.operands[1]) if len(ins.operands) > 1 else m.threads
    for block, name in {(int(m.block[t]), int(n)) for t, n in zip(threads, names, strict=True)}:
        some = threads[(m.block[threads] == block) & (names == name)]
        found = m.named.waiting.setdefault((block, name), [])
        found.append((at, some))
        total = sum(len(part) for _, part in found)
        if total > count or count % WARP:
            raise Fault(f"{total} threads at barrier {name}, which is for {count}")
        if total == count:
            del m.named.waiting[block, name]
            m.barriers.events += 1
            m.races.meet(np.concatenate([part for _, part in found]), count)
            for place, part in found:
                m.put(place + 1, part)


def mbarrier(m: Machine, ins: Instruction) -> Any:
    """init, arrive (of this block's or another's), arrive.expect_tx: thread by thread."""
    op, r = ins.opcode, m.registers
    init = op[1] == "init"
    if not init and (op[1] != "arrive" or ins.operands[0] != "_"):
        raise Fault(f"unknown barrier instruction {ins.where()}")
    address = r.address(ins.operands[0 if init else 1])
    with_count = init or "expect_tx" in op
    if not init and not with_count and len(ins.operands) != 2:
        raise Fault(f"unknown barrier instruction {ins.where()}")
    count = r.source(ins.operands[-1], "u32") if with_count else None
    remote = "shared::cluster" in op

    def step(s: Threads) -> None:
        threads = m.ids[s]
        where = np.broadcast_to(address(s), threads.shape)
        if not remote and (where >> 24).any():
            raise Fault("an mbarrier of another block is used as one's own")
        index = m.shared.index(m.block[s], where, 8)
        counts = np.broadcast_to(0 if count is None else count(s), threads.shape)
        if init:
            m.races.write(threads, index[:, None] // 4)
        else:
            m.races.follow(threads, index[:, None] // 4)
        for thread, i, n in zip(threads.tolist(), index.tolist(), counts.tolist(), strict=True):
            if init:
                m.barriers.init(i, n)
            else:
                m.barriers.arrive(i, thread, n)

    return step
