"""Tensors over memory that someone else owns, given as an address. Knows nothing of what lies there."""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

# TensorRT's names of dtypes, and for each the integers of its size, which every array protocol can express.
DTYPES = {
    "HALF": (torch.float16, "<i2"),
    "BF16": (torch.bfloat16, "<i2"),
    "FLOAT": (torch.float32, "<i4"),
    "FP8": (torch.float8_e4m3fn, "|u1"),
    "INT32": (torch.int32, "<i4"),
}


class DeviceArray:
    """The CUDA array interface, version 3, of contiguous memory: what torch.as_tensor reads without copying."""

    def __init__(self, address: int, shape: tuple[int, ...], typestr: str) -> None:
        self.__cuda_array_interface__ = {"data": (address, False), "shape": shape, "typestr": typestr, "version": 3}


def tensor_at(address: int, shape: tuple[int, ...], dtype: str, device: str) -> Tensor:
    """A contiguous tensor at `address`, which the caller keeps alive. `dtype` is one of DTYPES, as TensorRT spells it."""
    kind, integers = DTYPES[dtype]
    if device == "cpu":
        size = math.prod(shape) * kind.itemsize
        buffer = (ctypes.c_uint8 * size).from_address(address)
        return torch.frombuffer(buffer, dtype=torch.uint8).view(kind).view(shape)
    return torch.as_tensor(DeviceArray(address, shape, integers), device=device).view(kind)
