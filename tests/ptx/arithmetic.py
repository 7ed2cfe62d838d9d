"""What one thread computes by itself: integers, float32, packed halves, conversions, predicates. Raises Fault for what it lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tests.ptx import formats
from tests.ptx.faults import Fault
from tests.ptx.parse import Instruction
from tests.ptx.registers import DTYPES, Array, Registers, Threads, parts

Step = Callable[[Threads], None]
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
    "equ": lambda a, b: ~((a < b) | (a > b)), "neu": np.not_equal,
    "ltu": lambda a, b: ~(a >= b), "leu": lambda a, b: ~(a > b), "gtu": lambda a, b: ~(a <= b), "geu": lambda a, b: ~(a < b),
}  # fmt: skip


def wrapping(kind: str) -> str:
    """Sums and low products of signed numbers have the bits of unsigned ones."""
    return kind.replace("s", "u") if kind[0] == "s" else kind


def rounded(x: Any) -> Any:
    return np.asarray(x, np.float64).astype(np.float32)


def divide(a: Any, b: Any) -> Any:
    """Towards zero, as C does."""
    wide_a, wide_b = np.int64(a), np.int64(b)
    return np.sign(wide_a) * np.sign(wide_b) * (np.abs(wide_a) // np.abs(wide_b))


UNARY: dict[str, Callable[[Any], Any]] = {
    "neg": np.negative, "abs": np.abs, "not": np.invert, "ex2": lambda x: flush(np.exp2(flush(x))), "sqrt": np.sqrt,
    "rsqrt": lambda x: rounded(1 / np.sqrt(np.float64(x))), "rcp": lambda x: rounded(1 / np.float64(x)),
}  # fmt: skip
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add, "sub": np.subtract, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "shl": np.left_shift,
}  # fmt: skip


def flush(x: Any) -> Any:
    return np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x)


def step(ins: Instruction, r: Registers) -> Step:
    name, kind = ins.opcode[0], ins.opcode[-1]
    if name in ("mov", "cvta"):
        return move(ins, r)
    if name == "cvt":
        return convert(ins, r)
    if name == "setp":
        return compare(ins, r)
    if kind == "bf16x2":
        return packed(ins, r)
    if name in BINARY:
        return apply(ins, r, BINARY[name], wrapping(kind))
    if name in UNARY:
        return apply(ins, r, UNARY[name], kind)
    if name in ("min", "max"):
        f = {"min": np.fmin, "max": np.fmax} if kind == "f32" else {"min": np.minimum, "max": np.maximum}
        return apply(ins, r, f[name], kind)
    if name in SPECIAL:
        return SPECIAL[name](ins, r)
    raise Fault(f"unknown instruction {ins.where()}")


def apply(ins: Instruction, r: Registers, f: Callable[..., Any], kind: str, result: str = "") -> Step:
    put, sources = r.target(ins.operands[0], result or kind), [r.source(operand, kind) for operand in ins.operands[1:]]
    if ins.opcode[0] in ("shl", "shr"):
        sources[1] = r.source(ins.operands[2], "u32")
    if len(sources) == 2:
        a, b = sources
        return lambda s: put(s, f(a(s), b(s)))
    return lambda s: put(s, f(*(source(s) for source in sources)))


def shift_right(ins: Instruction, r: Registers) -> Step:
    kind = ins.opcode[-1]
    most = 8 * np.dtype(DTYPES[kind]).itemsize - 1

    def f(a: Any, b: Any) -> Any:
        if kind[0] == "s":
            return a >> np.minimum(b, most).astype(a.dtype)
        return np.where(b > most, 0, a >> np.minimum(b, most).astype(a.dtype))

    return apply(ins, r, f, kind)


def multiply(ins: Instruction, r: Registers) -> Step:
    mode, kind = ins.opcode[1], ins.opcode[-1]
    if kind == "f32":
        return apply(ins, r, np.multiply, kind)
    if mode == "lo":
        return apply(ins, r, np.multiply, wrapping(kind))
    wide = kind[0] + str(2 * int(kind[1:]))
    dtype = DTYPES[wide]
    if mode == "wide":
        return apply(ins, r, lambda a, b: dtype(a) * dtype(b), kind, wide)
    if mode == "hi" and kind[1:] == "32":
        return apply(ins, r, lambda a, b: dtype(a) * dtype(b) >> dtype(32), kind)
    raise Fault(f"unknown product {ins.where()}")


def multiply_add(ins: Instruction, r: Registers) -> Step:
    mode, kind = ins.opcode[1], ins.opcode[-1]
    if kind == "f32":
        return apply(ins, r, lambda a, b, c: rounded(np.float64(a) * np.float64(b) + np.float64(c)), kind)
    if mode == "lo":
        return apply(ins, r, lambda a, b, c: a * b + c, wrapping(kind))
    if mode != "wide":
        raise Fault(f"unknown product {ins.where()}")
    wide = kind[0] + str(2 * int(kind[1:]))
    put, c = r.target(ins.operands[0], wide), r.source(ins.operands[3], wide)
    a, b = (r.source(operand, kind) for operand in ins.operands[1:3])
    return lambda s: put(s, DTYPES[wide](a(s)) * DTYPES[wide](b(s)) + c(s))


def quotient(ins: Instruction, r: Registers) -> Step:
    kind = ins.opcode[-1]
    if kind == "f32":
        return apply(ins, r, lambda a, b: rounded(np.float64(a) / np.float64(b)), kind)
    if ins.opcode[0] == "rem":
        return apply(ins, r, lambda a, b: np.int64(a) - divide(a, b) * np.int64(b), kind)
    return apply(ins, r, divide, kind)


def choose(ins: Instruction, r: Registers) -> Step:
    """As bits: a float that passes through keeps every one."""
    bits = "b" + ins.opcode[-1][1:]
    put, test = r.target(ins.operands[0], bits), r.source(ins.operands[3], "pred")
    a, b = (r.source(operand, bits) for operand in ins.operands[1:3])
    return lambda s: put(s, np.where(test(s), a(s), b(s)))


def compare(ins: Instruction, r: Registers) -> Step:
    if len(ins.opcode) != 3:
        raise Fault(f"unknown comparison {ins.where()}")
    put, f = r.target(ins.operands[0], "pred"), COMPARE[ins.opcode[1]]
    a, b = (r.source(operand, ins.opcode[2]) for operand in ins.operands[1:])
    return lambda s: put(s, f(a(s), b(s)))


def move(ins: Instruction, r: Registers) -> Step:
    to, of = ins.operands
    kind = ins.opcode[-1]
    if ins.opcode[0] == "cvta" and not {"global", "param"} & set(ins.opcode):
        raise Fault(f"unknown address space {ins.where()}")
    if of.startswith("{"):
        pieces = parts(of)
        width = int(kind[1:]) // len(pieces)
        sources, put_whole = [r.source(piece, f"b{width}") for piece in pieces], r.target(to, kind)
        whole = DTYPES[kind]
        return lambda s: put_whole(s, sum(whole(f(s)) << whole(width * i) for i, f in enumerate(sources)))
    if to.startswith("{"):
        pieces = parts(to)
        width = int(kind[1:]) // len(pieces)
        targets, source, narrow = (
            [r.target(piece, f"b{width}") for piece in pieces],
            r.source(of, kind),
            DTYPES[f"b{width}"],
        )

        def scatter(s: Threads) -> None:
            value = source(s)
            for i, put in enumerate(targets):
                put(s, (value >> DTYPES[kind](width * i)).astype(narrow))

        return scatter
    bits = kind if kind == "pred" else "b" + kind[1:]
    put, get = r.target(to, bits), r.source(of, bits)
    return lambda s: put(s, get(s))


def convert(ins: Instruction, r: Registers) -> Step:
    to, of = ins.opcode[-2:]
    out = ins.operands[0]
    if of == "f32" and to in ("bf16x2", "f16x2", "e4m3x2"):
        return pack(ins, r, to)
    if (to, of) == ("f16x2", "e4m3x2"):
        put, pair = r.target(out, "b32"), r.source(ins.operands[1], "b16")

        def unpack(s: Threads) -> None:
            both = pair(s)
            low, high = (formats.to_f16(formats.E4M3[both >> np.uint16(8 * i) & 0xFF]) for i in (0, 1))
            put(s, low | np.uint32(high) << np.uint32(16))

        return unpack
    if (to, of) == ("bf16", "f32"):
        put, get = r.target(out, "b16"), r.source(ins.operands[1], "f32")
        return lambda s: put(s, formats.to_bf16(get(s)))
    if to in DTYPES and of in DTYPES and of[0] in "us" and (to[0] in "us" or (to == "f32" and "rn" in ins.opcode)):
        dtype = DTYPES[to]
        put, get = r.target(out, to), r.source(ins.operands[1], of)
        return lambda s: put(s, get(s).astype(dtype))
    raise Fault(f"unknown conversion {ins.where()}")


def pack(ins: Instruction, r: Registers, to: str) -> Step:
    """The first operand becomes the upper half."""
    f = {"bf16x2": formats.to_bf16, "f16x2": formats.to_f16, "e4m3x2": formats.to_e4m3}[to]
    if to == "e4m3x2" and "satfinite" not in ins.opcode:
        raise Fault(f"unknown conversion {ins.where()}")
    half = 8 if to == "e4m3x2" else 16
    put = r.target(ins.operands[0], f"b{2 * half}")
    high, low = (r.source(operand, "f32") for operand in ins.operands[1:])

    def both(s: Threads) -> None:
        put(
            s,
            f(np.atleast_1d(low(s))).astype(np.uint32) | f(np.atleast_1d(high(s))).astype(np.uint32) << np.uint32(half),
        )

    return both


def packed(ins: Instruction, r: Registers) -> Step:
    f = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[ins.opcode[0]]
    put = r.target(ins.operands[0], "b32")
    a, b = (r.source(operand, "b32") for operand in ins.operands[1:])

    def halves(s: Threads) -> None:
        both_a, both_b = np.atleast_1d(a(s)), np.atleast_1d(b(s))
        done: Any = np.uint32(0)
        for shift in (np.uint32(0), np.uint32(16)):
            x, y = (formats.from_bf16((both >> shift).astype(np.uint16)) for both in (both_a, both_b))
            done = done | formats.to_bf16(f(x, y)).astype(np.uint32) << shift
        put(s, done)

    return halves


def permute(ins: Instruction, r: Registers) -> Step:
    """prmt: each nibble of the selector names one of eight bytes."""
    if ins.opcode != ("prmt", "b32"):
        raise Fault(f"unknown permutation {ins.where()}")

    def f(a: Any, b: Any, select: Any) -> Any:
        both = np.uint64(a) | np.uint64(b) << np.uint64(32)
        out: Array | np.uint32 = np.uint32(0)
        for i in range(4):
            nibble = np.uint32(select) >> np.uint32(4 * i) & np.uint32(15)
            byte = (both >> np.uint64(8) * np.uint64(nibble & np.uint32(7)) & np.uint64(255)).astype(np.uint32)
            sign = np.where(byte & np.uint32(128), np.uint32(255), np.uint32(0))
            out = out | np.where(nibble & np.uint32(8), sign, byte) << np.uint32(8 * i)
        return out

    return apply(ins, r, f, "b32")


def insert_bits(ins: Instruction, r: Registers) -> Step:
    def f(a: Any, b: Any, position: Any, length: Any) -> Any:
        mask = ((np.uint64(1) << np.uint64(length)) - np.uint64(1)) << np.uint64(position)
        return (np.uint64(b) & ~mask | np.uint64(a) << np.uint64(position) & mask).astype(np.uint32)

    return apply(ins, r, f, "b32")


SPECIAL: dict[str, Callable[[Instruction, Registers], Step]] = {
    "shr": shift_right, "mul": multiply, "mad": multiply_add, "fma": multiply_add, "div": quotient, "rem": quotient, "selp": choose,
    "prmt": permute, "bfi": insert_bits,
}  # fmt: skip
