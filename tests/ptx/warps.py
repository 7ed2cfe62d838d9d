"""Instructions of whole warps: shuffles, votes, the 8x8 transpose, mma.sync. Fragments are laid out as PTX's sections on
mma.m16n8k16 and m16n8k32 say. Every function takes complete warps, in order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tests.ptx import formats
from tests.ptx.faults import Fault
from tests.ptx.parse import Instruction
from tests.ptx.registers import Array, Registers, Threads, parts

LANE = np.arange(32)
G, C = LANE // 4, LANE % 4


def shuffle(r: Registers, ins: Instruction) -> Any:
    if ins.opcode != ("shfl", "sync", "bfly", "b32"):
        raise Fault(f"unknown shuffle {ins.where()}")
    out, _, valid = ins.operands[0].partition("|")
    put, put_valid = r.target(out, "b32"), r.target(valid or "_", "pred")
    value, distance, clamp, mask = (r.source(operand, "b32") for operand in ins.operands[1:])

    def step(s: Threads) -> None:
        whole(mask(s), ins)
        if (np.asarray(clamp(s)) != 31).any():
            raise Fault(f"unknown shuffle {ins.where()}")
        values = value(s).reshape(-1, 32)
        lanes = LANE ^ np.broadcast_to(distance(s), values.size).reshape(-1, 32).astype(np.int64)
        put(s, np.take_along_axis(values, lanes, axis=1).reshape(-1))
        put_valid(s, True)

    return step


def vote(r: Registers, ins: Instruction) -> Any:
    if ins.opcode != ("vote", "sync", "any", "pred"):
        raise Fault(f"unknown vote {ins.where()}")
    put, value, mask = (
        r.target(ins.operands[0], "pred"),
        r.source(ins.operands[1], "pred"),
        r.source(ins.operands[2], "b32"),
    )

    def step(s: Threads) -> None:
        whole(mask(s), ins)
        put(s, np.repeat(value(s).reshape(-1, 32).any(axis=1), 32))

    return step


def whole(mask: Any, ins: Instruction) -> None:
    if (np.asarray(mask) != 0xFFFFFFFF).any():
        raise Fault(f"a part of a warp at {ins.where()}")


def transpose(r: Registers, ins: Instruction) -> Any:
    """movmatrix: lane 4 i + j holds columns 2 j and 2 j + 1 of row i, before and after."""
    if ins.opcode != ("movmatrix", "sync", "aligned", "m8n8", "trans", "b16"):
        raise Fault(f"unknown transpose {ins.where()}")
    put, value = r.target(ins.operands[0], "b32"), r.source(ins.operands[1], "b32")

    def step(s: Threads) -> None:
        matrix = np.ascontiguousarray(value(s)).view(np.uint16).reshape(-1, 8, 8)
        put(s, np.ascontiguousarray(matrix.transpose(0, 2, 1)).reshape(-1).view(np.uint32))

    return step


def multiply(r: Registers, ins: Instruction) -> Any:
    """mma.sync.aligned.m16n8k{16,32}.row.col: D = A B + C."""
    shape, kind, accumulator = ins.opcode[3], ins.opcode[7], ins.opcode[6]
    if ins.opcode[1:3] != ("sync", "aligned") or (shape, kind) not in KINDS or ins.opcode[8] != kind:
        raise Fault(f"unknown product {ins.where()}")
    targets = [r.target(part, accumulator) for part in parts(ins.operands[0])]
    a, b = ([r.source(part, "b32") for part in parts(operand)] for operand in ins.operands[1:3])
    c = [r.source(part, accumulator) for part in parts(ins.operands[3])]

    def step(s: Threads) -> None:
        left = fragment(a, s, kind, rows=2)
        right = fragment(b, s, kind, rows=1)
        product = left @ right.transpose(0, 2, 1)
        for i, (put, source) in enumerate(zip(targets, c, strict=True)):
            put(s, product[:, G + 8 * (i >> 1), 2 * C + (i & 1)].reshape(-1) + source(s))

    return step


KINDS = {("m16n8k16", "bf16"), ("m16n8k16", "f16"), ("m16n8k32", "e4m3"), ("m16n8k32", "s8")}


def fragment(registers: list[Any], s: Threads, kind: str, *, rows: int) -> Array:
    """(warps, 8 * rows, K): register i of lane 4 g + c holds 4 bytes of row g + 8 (i % rows), c-th of 4 in half i // rows of K."""
    raw = np.stack([np.broadcast_to(source(s), len(registers[0](s))) for source in registers], axis=-1)
    lanes = raw.reshape(-1, 8, 4, 2, rows)  # warp, g, c, half of K, rows
    ordered = np.ascontiguousarray(lanes.transpose(0, 4, 1, 3, 2))  # warp, rows, g, half, c
    return formats.widen(ordered.view(np.uint8).reshape(len(ordered), 8 * rows, 32), kind)
