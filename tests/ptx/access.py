"""Loads, stores and atomics of single threads: global, shared, a cluster's shared, parameters."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from tests.ptx.barriers import Barriers
from tests.ptx.faults import Fault
from tests.ptx.memory import RANK, SPAN, UNSIGNED, Global, Shared
from tests.ptx.parse import Instruction
from tests.ptx.registers import DTYPES, Array, Registers, Source, Threads, parts


class State(Protocol):
    """What of a machine these instructions touch."""

    registers: Registers
    memory: Global
    shared: Shared
    barriers: Barriers
    ids: Array  # of threads within the cluster
    block: Array  # of each thread: its rank in the cluster
    waited: Array  # whether it has passed griddepcontrol.wait
    early: (
        dict[int, Array | None] | None
    )  # tensors that may be touched before that, but for these 16-byte pieces; None: all


def space(ins: Instruction) -> str:
    for name in ("param", "global", "shared", "shared::cta", "shared::cluster"):
        if name in ins.opcode:
            return name
    raise Fault(f"generic addresses are unknown: {ins.where()}")


def shape(ins: Instruction) -> tuple[str, int]:
    """(type, number of words)."""
    count = 4 if "v4" in ins.opcode else 2 if "v2" in ins.opcode else 1
    return ins.opcode[-1], count


def shared_index(m: State, ins: Instruction, address: Source, size: int) -> Source:
    """Byte index of the running threads' addresses; only shared::cluster ones may be of another block."""

    def index(s: Threads) -> Array:
        threads, where = m.ids[s], address(s)
        where = np.broadcast_to(where, threads.shape)
        if "shared::cluster" not in ins.opcode and (where >> RANK).any():
            raise Fault("an address of another block's shared memory is used as one's own")
        return m.shared.index(m.block[s], where, size)

    return index


def global_address(m: State, address: Source) -> Source:
    def checked(s: Threads) -> Array:
        where = np.broadcast_to(address(s), m.ids[s].shape)
        if m.early is not None and not m.waited[s].all():
            soon = where[~m.waited[s]]
            for owner in np.unique(soon >> SPAN).tolist():
                if owner not in m.early:
                    raise Fault(f"argument tensor {owner} is touched before griddepcontrol.wait")
                fresh, pieces = m.early[owner], (soon[soon >> SPAN == owner] & ((1 << SPAN) - 1)) >> 4
                if fresh is not None and fresh[pieces].any():
                    raise Fault(
                        f"what the previous kernel writes of tensor {owner} is touched before griddepcontrol.wait"
                    )
        return where

    return checked


def load(m: State, ins: Instruction) -> Any:
    kind, count = shape(ins)
    width = np.dtype(DTYPES[kind]).itemsize
    r = m.registers
    if space(ins) == "param":
        put, get = r.target(ins.operands[0], kind), r.source(ins.operands[1].strip("[]"), kind)
        return lambda s: put(s, get(s))
    targets = [r.target(part, kind) for part in parts(ins.operands[0])]
    address = r.address(ins.operands[1])
    dtype = DTYPES[kind]

    def deliver(s: Threads, words: Array) -> None:
        for i, put in enumerate(targets):
            put(s, np.ascontiguousarray(words[:, i]).view(dtype))

    if space(ins) == "global":
        where = global_address(m, address)
        return lambda s: deliver(s, m.memory.load(where(s), width, count))
    index = shared_index(m, ins, address, width * count)
    return lambda s: deliver(s, m.shared.load(index(s), width, count, m.ids[s]))


def store(m: State, ins: Instruction) -> Any:
    kind, count = shape(ins)
    width = np.dtype(DTYPES[kind]).itemsize
    sources = [m.registers.source(part, f"b{8 * width}") for part in parts(ins.operands[1])]
    address = m.registers.address(ins.operands[0])

    def values(s: Threads) -> Array:
        out = np.empty((len(m.ids[s]), count), UNSIGNED[width])
        for i, source in enumerate(sources):
            out[:, i] = source(s)
        return out

    if space(ins) == "global":
        where = global_address(m, address)
        return lambda s: m.memory.store(where(s), values(s))
    index = shared_index(m, ins, address, width * count)
    return lambda s: m.shared.store(index(s), values(s), m.ids[s])


def atomic(m: State, ins: Instruction) -> Any:
    """atom.global.add.u32, thread by thread."""
    if ins.opcode[-3:] != ("global", "add", "u32"):
        raise Fault(f"unknown atomic {ins.where()}")
    put, value = m.registers.target(ins.operands[0], "u32"), m.registers.source(ins.operands[2], "u32")
    where = global_address(m, m.registers.address(ins.operands[1]))

    def add(s: Threads) -> None:
        addresses = where(s)
        added = np.broadcast_to(value(s), addresses.shape)
        old = np.empty(len(addresses), np.uint32)
        for i in range(len(addresses)):
            old[i : i + 1] = m.memory.load(addresses[i : i + 1], 4, 1)[:, 0]
            m.memory.store(addresses[i : i + 1], (old[i : i + 1] + added[i : i + 1])[:, None])
        put(s, old)

    return add


def map_rank(m: State, ins: Instruction) -> Any:
    """mapa: the same place in the shared memory of block `rank`."""
    put = m.registers.target(ins.operands[0], "u32")
    at, rank = (m.registers.source(operand, "u32") for operand in ins.operands[1:])

    def step(s: Threads) -> None:
        ranks = rank(s)
        if np.max(ranks) >= m.shared.blocks:
            raise Fault(f"the cluster has no block {int(np.max(ranks))}")
        put(s, (at(s) & np.uint32((1 << RANK) - 1)) | (ranks + np.uint32(1)) << np.uint32(RANK))

    return step


def fence(m: State, ins: Instruction) -> Any:
    if ins.opcode[1] == "mbarrier_init":
        return lambda s: m.barriers.fence(m.ids[s])
    if ins.opcode[:3] == ("fence", "proxy", "async"):

        def step(s: Threads) -> None:
            m.barriers.fence(m.ids[s])
            m.shared.fence(m.ids[s], len(m.ids))

        return step
    if ins.opcode[:2] == ("fence", "proxy"):
        raise Fault(f"unknown fence {ins.where()}")
    return lambda s: None
