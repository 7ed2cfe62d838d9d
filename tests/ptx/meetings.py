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
OFTEN = 0.2  # how often, in random order, a wait gives up at once


def size_of(ins: Instruction) -> int:
    """How many threads run this together; 0: each by itself."""
    if ins.opcode[:2] == ("wgmma", "mma_async") or ins.opcode[0] == "setmaxnreg":
        return WARPGROUP
    if ins.opcode[0] in ("shfl", "vote", "movmatrix", "mma", "wgmma") or ins.opcode[:2] == ("bar", "warp"):
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
    wanted, most = sum(m.wanted.values()) * WARPGROUP, REGISTERS // m.threads // 8 * 8 * m.threads
    if len(m.wanted) == m.threads // WARPGROUP and wanted > most:
        raise Fault(f"warpgroups want {wanted} registers of the {most} that their block has")


def products(m: Machine, at: int, ins: Instruction, threads: Array) -> None:
    match ins.opcode[1]:
        case "mma_async":
            check_fence(m, at, ins)
            for group in threads.reshape(-1, WARPGROUP):
                m.wgmma.issue(ins, group)
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
    index = shared_index(m, r.address(ins.operands[1]), 8)(threads)
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
    for name in np.unique(names).tolist():
        some = threads[names == name]
        found = m.named.setdefault(name, NamedBarrier())
        found.waiting.append((at, some))
        come = sum(len(part) for _, part in found.waiting)
        if come > count or count % WARP:
            raise Fault(f"{come} threads at barrier {name}, which is for {count}")
        m.races.release(("bar", name), some)
        if come == count:
            del m.named[name]
            m.races.complete(("bar", name))
            for place, part in found.waiting:
                m.races.acquire(("bar", name), part)
                m.put(place + 1, part)


def mbarrier(m: Machine, ins: Instruction) -> Any:
    """init and arrive, thread by thread."""
    op, r = ins.opcode, m.registers
    init = op == ("mbarrier", "init", "shared::cta", "b64")
    if not init and (op != ("mbarrier", "arrive", "shared::cta", "b64") or ins.operands[0] != "_"):
        raise Fault(f"unknown barrier instruction {ins.where()}")
    if len(ins.operands) != 2:
        raise Fault(f"unknown barrier instruction {ins.where()}")
    index = shared_index(m, r.address(ins.operands[0 if init else 1]), 8)
    count = r.source(ins.operands[1], "u32") if init else None

    def step(s: Threads) -> None:
        threads, places = m.ids[s], index(s)
        if count is None:
            m.races.follow(threads, places[:, None] // 4)
            for thread, place in zip(threads.tolist(), places.tolist(), strict=True):
                m.barriers.arrive(place, thread)
            return
        m.races.write(threads, places[:, None] // 4)
        for place, n in zip(places.tolist(), np.broadcast_to(count(s), threads.shape).tolist(), strict=True):
            m.barriers.init(place, n)

    return step
