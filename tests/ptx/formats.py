"""Bits of bf16, fp16, e4m3 and float32, as NumPy arrays. Knows rounding, and nothing of instructions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def table() -> Array:
    """The 256 values of e4m3 (OCP 8-bit floating point): no infinities, NaN at 0x7f and 0xff."""
    bits = np.arange(256)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    size = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    size[[0x7F, 0xFF]] = np.nan
    return np.where(bits & 0x80, -size, size).astype(np.float32)


E4M3 = table()
E4M3_SIZES = E4M3[:0x7F].astype(np.float64)


def to_e4m3(x: Array) -> Array:
    """float32 -> uint8, to nearest even, saturating at 448."""
    size = np.minimum(np.abs(x.astype(np.float64)), 448.0)
    above = np.clip(np.searchsorted(E4M3_SIZES, size), 1, 0x7E)
    low, high = size - E4M3_SIZES[above - 1], E4M3_SIZES[above] - size
    bits = np.where((low < high) | ((low == high) & (above % 2 == 1)), above - 1, above)
    bits = np.where(np.isnan(x), 0x7F, bits)
    signed: Array = (bits | np.signbit(x) * 0x80).astype(np.uint8)
    return signed


def from_bf16(bits: Array) -> Array:
    """uint16 -> float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bf16(x: Array) -> Array:
    """float32 -> uint16, to nearest even."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), 0x7FFF, rounded).astype(np.uint16)


def from_f16(bits: Array) -> Array:
    return np.ascontiguousarray(bits).view(np.float16).astype(np.float32)


def to_f16(x: Array) -> Array:
    return np.ascontiguousarray(x, dtype=np.float32).astype(np.float16).view(np.uint16)


def widen(raw: Array, kind: str) -> Array:
    """The elements of a contiguous uint8 array (..., bytes) as float32, or int32 for s8."""
    if kind == "bf16":
        return from_bf16(raw.view(np.uint16))
    if kind == "f16":
        return from_f16(raw.view(np.uint16))
    if kind == "e4m3":
        return E4M3[raw]
    return raw.view(np.int8).astype(np.int32)
