"""Registers as arrays over threads, and the operands that name them. Knows types' widths, and no instruction."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.ptx.faults import Fault

Array = NDArray[Any]
Threads = Any  # a slice, or an array of indices: which threads run
Source = Callable[[Threads], Any]
Target = Callable[[Threads, Any], None]

DTYPES: Mapping[str, Any] = {
    "pred": np.bool_, "u8": np.uint8, "s8": np.int8, "b8": np.uint8, "u16": np.uint16, "s16": np.int16, "b16": np.uint16, "u32": np.uint32,
    "s32": np.int32, "b32": np.uint32, "f32": np.float32, "u64": np.uint64, "s64": np.int64, "b64": np.uint64, "f64": np.float64,
}  # fmt: skip
REGISTER = re.compile(r"(%.*?)(\d+)$")
NEVER_SET = 0xA5  # every byte of a register that nothing was written to


class Registers:
    def __init__(self, declared: Mapping[str, tuple[str, int]], threads: int, symbols: Mapping[str, int]) -> None:
        """`symbols`: what variables' and parameters' names stand for."""
        storage = {prefix: np.dtype(DTYPES[kind]) for prefix, (kind, _) in declared.items()}
        self.banks = {
            prefix: np.zeros((count, threads), storage[prefix] if kind == "pred" else f"u{storage[prefix].itemsize}")
            for prefix, (kind, count) in declared.items()
        }
        self.special: dict[str, Array] = {}
        self._rows: dict[str, Array] = {}
        self._symbols = symbols
        self.forget()

    def forget(self) -> None:
        for bank in self.banks.values():
            bank.view(np.uint8)[:] = 0 if bank.dtype == np.bool_ else NEVER_SET

    def row(self, name: str) -> Array:
        if name not in self._rows:
            found = REGISTER.match(name)
            if not found or found[1] not in self.banks:
                raise Fault(f"no register {name}")
            self._rows[name] = self.banks[found[1]][int(found[2])]
        return self._rows[name]

    def source(self, operand: str, kind: str) -> Source:
        """What reads `operand` as `kind`: an array over the running threads, or a scalar."""
        dtype = np.dtype(DTYPES[kind])
        if operand in self.special:
            return lambda s: self.special[operand][s].astype(dtype)
        if not operand.startswith("%"):
            value = self.constant(operand, dtype)
            return lambda s: value
        row = self.row(operand)
        if row.dtype.itemsize == dtype.itemsize:
            view = row.view(dtype)
            return lambda s: view[s]
        narrow = np.dtype(f"u{dtype.itemsize}")
        return lambda s: row[s].astype(narrow).view(dtype)

    def target(self, operand: str, kind: str) -> Target:
        """What stores an array of `kind`, extended by its sign where the register is wider."""
        if operand == "_":
            return lambda s, value: None
        row, dtype = self.row(operand), np.dtype(DTYPES[kind])
        if row.dtype.itemsize == dtype.itemsize:
            view = row.view(dtype)

            def store(s: Threads, value: Any) -> None:
                view[s] = value

            return store
        wide = np.dtype(f"i{row.dtype.itemsize}" if dtype.kind == "i" else f"u{row.dtype.itemsize}")
        extended = row.view(wide)

        def extend(s: Threads, value: Any) -> None:
            extended[s] = np.asarray(value).astype(dtype)

        return extend

    def constant(self, text: str, dtype: np.dtype[Any]) -> Any:
        if text in self._symbols:
            bits = np.array([self._symbols[text] & ((1 << 8 * dtype.itemsize) - 1)], f"u{dtype.itemsize}")
            return bits.view(dtype)[0]
        if text[:2] in ("0f", "0F"):
            bits = np.frombuffer(bytes.fromhex(text[2:]), ">u4").astype(np.uint32)
            return bits.view(np.float32)[0].astype(dtype) if dtype.kind == "f" else bits.astype(dtype)[0]
        if dtype.kind == "f":
            return dtype.type(float(text))
        value = int(text.rstrip("U"), 0) & ((1 << 8 * dtype.itemsize) - 1)
        return np.array([value], f"u{dtype.itemsize}").view(dtype)[0]

    def address(self, operand: str) -> Source:
        """`[register + offset]` or `[variable + offset]` as signed 64-bit numbers."""
        base, _, offset = operand.strip("[] ").partition("+")
        shift = np.int64(int(offset or "0"))
        if not base.startswith("%"):
            fixed = np.int64(self._symbols[base] if base in self._symbols else int(base)) + shift
            return lambda s: np.full(1, fixed)
        row = self.row(base)
        signed = row.dtype.itemsize == 8
        return lambda s: (row[s].view(np.int64) if signed else row[s].astype(np.int64)) + shift


def parts(operand: str) -> list[str]:
    """Of `{a, b}`, or the operand alone."""
    return [part.strip() for part in operand.strip("{}").split(",")]
