"""wgmma.mma_async: products of a warpgroup, 64 rows by N, whose operands are read and whose sums arrive at wgmma.wait_group only.

Layouts as in PTX's sections on wgmma (fragments; matrix descriptors; canonical layouts), which CUTLASS's
cute/atom/mma_traits_sm90_gmma.hpp spells out. Until its sums arrive, an accumulator register holds a token: a signaling NaN that
names product chain and register. Copies of the register are copies of the token; any arithmetic on it gives NaN.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from tests.ptx import formats
from tests.ptx.faults import Fault
from tests.ptx.memory import Shared
from tests.ptx.parse import Instruction
from tests.ptx.registers import Array, Registers, parts

LANE = np.arange(32)
TOKEN, CHAINS = 0x7F800000, (1 << 14) - 1  # 22 bits below the quiet one: 14 of the chain, 8 of the register
INPUTS = {("16", "bf16"): 2, ("16", "f16"): 2, ("32", "e4m3"): 1}  # bytes of an element


@dataclass(slots=True)
class Chain:
    """Products of one warp that add up in the same registers."""

    number: int
    sums: Array  # (16, N) float32
    left: int = 0  # products not done


@dataclass(slots=True, kw_only=True)
class Product:
    kind: str
    n: int
    a: Array | int  # (4 warps, 16, K) from registers, or a descriptor
    b: int
    across: bool  # B lies N-major
    add: bool
    block: int
    chains: dict[int, Chain]  # by warp of the warpgroup
    clock: Array  # what its threads had seen at the issue


@dataclass(slots=True)
class Pipe:
    """One warp's products: those not committed, and committed groups, oldest first."""

    open: list[Product] = field(default_factory=list)
    groups: list[list[Product]] = field(default_factory=list)


def columns(n: int) -> tuple[Array, Array]:
    """(lanes, registers) row and column of the warp's 16 x N: accumulator fragment D."""
    i = np.arange(n // 2)
    row = (LANE // 4)[:, None] + 8 * (i >> 1 & 1)
    column = (i >> 2) * 8 + 2 * (LANE % 4)[:, None] + (i & 1)
    return row, column


def k_major(start: int, stride: int, rows: int) -> Array:
    """Addresses (rows, 2) of 16-byte pieces along K: ((8, rows / 8), 2) : ((128, stride), 16) bytes."""
    row = np.arange(rows)
    return start + (row // 8 * stride + row % 8 * 128)[:, None] + 16 * np.arange(2)


def n_major(start: int, leading: int, stride: int, n: int) -> Array:
    """Addresses (16 of K, n / 8) of 16-byte pieces along N: ((8, n / 64), (8, 2)) : ((16, leading), (128, stride)) bytes."""
    k, piece = np.arange(16), np.arange(n // 8)
    return start + (k // 8 * stride + k % 8 * 128)[:, None] + piece // 8 * leading + piece % 8 * 16


def operand(shared: Shared, product: Product, descriptor: int, rows: int, across: bool, reader: int) -> Array:
    """(rows, K) as float32. 128-byte swizzle: bits 4-6 of an address take in bits 7-9."""
    if descriptor >> 62 != 1 or descriptor >> 49 & 7:
        raise Fault(f"descriptor {descriptor:#x}: only 128-byte swizzle with base offset 0 is known")
    start, leading, stride = ((descriptor >> shift & 0x3FFF) << 4 for shift in (0, 16, 32))
    if start >> 7 & 7:
        raise Fault(
            f"descriptor {descriptor:#x}: base offset 0, yet the swizzle's pattern does not begin at a multiple of 1024"
        )
    address = n_major(start, leading, stride, rows) if across else k_major(start, stride, rows)
    address ^= (address >> 7 & 7) << 4
    found = shared.operand(shared.index(product.block, address, 16), product.clock, reader)
    found = formats.widen(found.reshape(len(address), -1), product.kind)
    return np.ascontiguousarray(found.T) if across else found


class Wgmma:
    """Of all warps of a cluster. Warps are numbered over the cluster, four to a group."""

    def __init__(self, registers: Registers, shared: Shared) -> None:
        self._registers, self._shared = registers, shared
        self._pipes: dict[int, Pipe] = {}
        self._chains: dict[int, Chain] = {}
        self._count = 0

    def issue(self, ins: Instruction, threads: Array, block: int) -> None:
        """For one warpgroup's 128 threads."""
        shape = re.fullmatch(r"m64n(\d+)k(\d+)", ins.opcode[4])
        if (
            not shape
            or ins.opcode[5] != "f32"
            or ins.opcode[6] != ins.opcode[7]
            or (shape[2], ins.opcode[6]) not in INPUTS
        ):
            raise Fault(f"unknown product {ins.where()}")
        n, kind = int(shape[1]), ins.opcode[6]
        from_registers = ins.operands[1].startswith("{")
        scales = ins.operands[4:6]
        transposed = ins.operands[6:]
        if (
            scales != ("1", "1")
            or transposed not in {(), ("0", "0"), ("0",), ("1",)}
            or (from_registers and len(transposed) > 1)
        ):
            raise Fault(f"unknown operands {ins.where()}")
        a = self.fragment(ins, threads, kind) if from_registers else self.same(ins.operands[1], threads, "b64")
        product = Product(
            kind=kind, n=n, a=a, b=self.same(ins.operands[2], threads, "b64"), across=transposed == ("1",),
            add=bool(self.same(ins.operands[3], threads, "pred")), block=block, chains={}, clock=self._shared.races.seen[threads].min(axis=0),
        )  # fmt: skip
        names = parts(ins.operands[0])
        for i, warp in enumerate(threads[::32] // 32):
            lanes = threads[32 * i : 32 * i + 32]
            product.chains[int(warp)] = self.chain(names, lanes, n)
            self._pipes.setdefault(int(warp), Pipe()).open.append(product)

    def same(self, operand: str, threads: Array, kind: str) -> int:
        values = np.broadcast_to(self._registers.source(operand, kind)(threads), threads.shape)
        if (values != values[0]).any():
            raise Fault(f"threads of a warpgroup give different {operand}")
        return int(values[0])

    def fragment(self, ins: Instruction, threads: Array, kind: str) -> Array:
        """A from registers: rows g, g + 8 and columns 2 c, 2 c + 8 as in m16n8k16."""
        if kind == "e4m3":
            raise Fault(f"unknown operands {ins.where()}")
        words = np.stack([self._registers.source(part, "b32")(threads) for part in parts(ins.operands[1])], axis=-1)
        lanes = words.reshape(4, 8, 4, 2, 2)  # warp, g, c, half of K, half of rows
        raw = np.ascontiguousarray(lanes.transpose(0, 4, 1, 3, 2)).view(np.uint8).reshape(4, 16, 32)
        return formats.widen(raw, kind)

    def chain(self, names: list[str], lanes: Array, n: int) -> Chain:
        """The one whose tokens these registers hold, or a new one from what they hold."""
        rows = [self._registers.row(name) for name in names]
        held = np.stack([row[lanes] for row in rows], axis=-1)  # lanes, registers
        number = int(held[0, 0]) >> 8 & CHAINS
        known = self._chains.get(number) if int(held[0, 0]) & ~0x3FFFFF == TOKEN else None
        if known is not None and (held == self.tokens(number, len(names))).all():
            known.left += 1
            return known
        self._count += 1
        found = Chain(1 + self._count % (CHAINS - 1), np.empty((16, n), np.float32), 1)
        row, column = columns(n)
        found.sums[row, column] = held.view(np.float32)
        for i, register in enumerate(rows):
            register[lanes] = TOKEN | found.number << 8 | i
        self._chains[found.number] = found
        return found

    def tokens(self, number: int, count: int) -> Array:
        return (TOKEN | number << 8 | np.arange(count)).astype(np.uint32)

    def commit(self, warps: Array) -> None:
        for warp in warps:
            pipe = self._pipes.setdefault(int(warp), Pipe())
            pipe.groups.append(pipe.open)
            pipe.open = []

    def wait(self, warps: Array, most: int) -> None:
        """All but the `most` newest groups of these warps are done."""
        due: dict[int, tuple[Product, list[int]]] = {}
        for warp in map(int, warps):
            pipe = self._pipes.setdefault(warp, Pipe())
            count = max(len(pipe.groups) - most, 0)
            for product in (product for group in pipe.groups[:count] for product in group):
                due.setdefault(id(product), (product, []))[1].append(warp)
            del pipe.groups[:count]
        for product, members in due.values():
            self.multiply(product, members)

    def multiply(self, product: Product, warps: list[int]) -> None:
        # Warps of a warpgroup are numbered from its first, which need not be a multiple of four in the cluster.
        first, reader = min(product.chains), 32 * warps[0]
        b = operand(self._shared, product, product.b, product.n, product.across, reader)
        if isinstance(product.a, int):
            whole = operand(self._shared, product, product.a, 64, False, reader).reshape(4, 16, -1)
        else:
            whole = product.a
        done = []
        for warp in warps:
            chain = product.chains[warp]
            found = whole[warp - first] @ b.T
            chain.sums = chain.sums + found if product.add else found
            chain.left -= 1
            if chain.left == 0:
                done.append((warp, chain))
        for warp, chain in done:
            self.deliver(warp, chain)

    def deliver(self, warp: int, chain: Chain) -> None:
        """Sums to wherever tokens of this chain are."""
        bank = self._registers.banks["%f"][:, 32 * warp : 32 * warp + 32]
        rows, lanes = np.nonzero((bank >> np.uint32(8)) == np.uint32(TOKEN >> 8 | chain.number))
        row, column = columns(chain.sums.shape[1])
        which = bank[rows, lanes] & np.uint32(255)
        bank[rows, lanes] = chain.sums[row[lanes, which], column[lanes, which]].view(np.uint32)
        del self._chains[chain.number]
