"""Global memory: tensors at made-up addresses. Shared memory of a cluster's blocks, with what was written and by whom.

Knows addresses, bounds, alignment and the proxies' fences, and no instruction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.ptx.faults import Fault
from tests.ptx.races import Races
from torch import Tensor, uint8

Array = NDArray[Any]
UNSIGNED: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
SPAN = 32  # bits of an address within a tensor
SHARED_BASE = 1024  # what the driver keeps of a block's shared memory for itself, on sm_90
RANK = 24  # bits of an address within one block's shared memory; above: the block's rank + 1
NOBODY = 0
NEVER, PROMISED = 0, 1


class Global:
    """Every tensor has 4 GiB of addresses to itself, so that what runs off one hits no other."""

    def __init__(self) -> None:
        self._tensors: list[Array] = []

    def add(self, tensor: Tensor) -> int:
        """A contiguous tensor's address, as aligned as CUDA's allocator gives them."""
        if not tensor.is_contiguous():
            raise Fault(f"a tensor of shape {tuple(tensor.shape)} is not contiguous")
        self._tensors.append(tensor.reshape(-1).view(uint8).numpy())
        return len(self._tensors) << SPAN

    def words(self, address: Array, width: int, count: int) -> list[tuple[Any, Array, Array]]:
        """(lanes, memory as unsigned words, their first word's index) of accesses to `count` words of `width` bytes."""
        if (address & (width * count - 1)).any():
            raise Fault(f"global address {int(address[np.argmax(address & (width * count - 1))]):#x} is not aligned")
        parts = []
        owners = address >> SPAN
        first = owners[0]
        groups = (
            [(slice(None), int(first))]
            if (owners == first).all()
            else [(owners == o, int(o)) for o in np.unique(owners)]
        )
        for lanes, owner in groups:
            offset = address[lanes] & ((1 << SPAN) - 1)
            if not 1 <= owner <= len(self._tensors):
                raise Fault(f"global address {int(address[lanes][0]):#x} belongs to no tensor")
            memory = self._tensors[owner - 1]
            if offset.max() + width * count > memory.size:
                raise Fault(f"byte {int(offset.max())} of argument tensor {owner}, which has {memory.size}")
            usable = memory.size // width * width
            parts.append((lanes, memory[:usable].view(UNSIGNED[width]), offset // width))
        return parts

    def load(self, address: Array, width: int, count: int) -> Array:
        """(threads, count) unsigned words."""
        out = np.empty((len(address), count), UNSIGNED[width])
        for lanes, memory, index in self.words(address, width, count):
            out[lanes] = memory[index[:, None] + np.arange(count)]
        return out

    def store(self, address: Array, values: Array) -> None:
        width, count = values.dtype.itemsize, values.shape[1]
        for lanes, memory, index in self.words(address, width, count):
            memory[index[:, None] + np.arange(count)] = values[lanes]

    def bytes_of(self, address: int) -> Array:
        """From `address` to its tensor's end."""
        return self._tensors[(address >> SPAN) - 1][address & ((1 << SPAN) - 1) :]


class Shared:
    """Addresses within a block begin at SHARED_BASE; an index counts bytes over all blocks of the cluster."""

    def __init__(self, blocks: int, size: int, threads: int) -> None:
        self.size = -(-(SHARED_BASE + size) // 1024) * 1024
        self.limit = SHARED_BASE + size
        self.data = np.full(blocks * self.size, 0xFF, np.uint8)  # NaN in every format
        self.known = np.full(blocks * self.size, NEVER, np.uint8)  # 0xff: holds what somebody wrote
        self.writer = np.zeros(
            blocks * self.size // 4, np.int32
        )  # of a word: thread + 1, by the generic proxy, not fenced yet
        self.blocks = blocks
        self.gone = np.zeros(blocks, bool)  # whose threads have all ended
        self.races = Races(threads, blocks * self.size // 4)

    def index(self, block: Array | int, address: Array, size: int) -> Array:
        """Of shared::cta or shared::cluster addresses that threads of `block` use."""
        rank = address >> RANK
        where = address & ((1 << RANK) - 1)
        if rank.any():
            block = np.where(rank > 0, rank - 1, block)
            if (block >= self.blocks).any():
                raise Fault(f"shared address {int(address[np.argmax(block)]):#x} is of no block of the cluster")
            if self.gone[block].any():
                raise Fault("the shared memory of a block is used that has ended")
        if (where & (size - 1)).any():
            raise Fault(f"shared address {int(where[np.argmax(where & (size - 1))]):#x} is not aligned to {size} bytes")
        if where.min() < SHARED_BASE or where.max() + size > self.limit:
            raise Fault(f"shared address {int(where.max()):#x} is outside {SHARED_BASE:#x} to {self.limit:#x}")
        return block * self.size + where

    def load(self, index: Array, width: int, count: int, threads: Array) -> Array:
        words = (index // width)[:, None] + np.arange(count)
        self.races.read(threads, words * width // 4)
        known = self.known.view(UNSIGNED[width])[words] == np.iinfo(UNSIGNED[width]).max
        if not known.all():
            lane = int(np.argmin(known.all(axis=1)))
            raise Fault(
                f"shared byte {int(index[lane]) % self.size:#x} is read, which nobody wrote or a copy is on its way to"
            )
        found: Array = self.data.view(UNSIGNED[width])[words]
        return found

    def store(self, index: Array, values: Array, threads: Array, epochs: Array | None = None) -> None:
        """By the generic proxy, in these epochs of the threads; None: now."""
        width, count = values.dtype.itemsize, values.shape[1]
        words = (index // width)[:, None] + np.arange(count)
        self.races.write(threads, words * width // 4, epochs)
        self.data.view(UNSIGNED[width])[words] = values
        self.known.view(UNSIGNED[width])[words] = np.iinfo(UNSIGNED[width]).max
        self.writer[words * width // 4] = (threads + 1)[:, None]

    def promise(self, index: Array, threads: Array) -> None:
        """`threads` begin copies to these 16-byte pieces: until they land they hold neither old nor new."""
        pieces = index // 16
        self.races.may_write(threads, words_of(pieces)[None] if len(threads) == 1 else words_of(pieces).reshape(-1, 4))
        self.data.reshape(-1, 16)[pieces] = 0xFF
        self.known.reshape(-1, 16)[pieces] = PROMISED

    def fence(self, threads: Array, num_threads: int) -> None:
        """What `threads` wrote may be read by the async proxy (wgmma, TMA), and what they have seen written by their own."""
        self.races.fence(threads)
        fenced = np.zeros(num_threads + 1, bool)
        fenced[threads + 1] = True
        self.writer[fenced[self.writer]] = NOBODY

    def operand(self, index: Array, clock: Array, reader: int) -> Array:
        """(..., 16) bytes at 16-byte pieces, as the async proxy reads them. What was never written is NaN: it may be of rows whose
        products nobody wants."""
        pieces = index // 16
        self.races.read_with(clock, reader, words_of(pieces))
        promised = (self.known.reshape(-1, 16)[pieces] == PROMISED).any(axis=-1)
        if promised.any():
            raise Fault(
                f"an operand's shared byte {int(pieces[promised][0]) * 16 % self.size:#x} is read, which a copy is on its way to"
            )
        open_words = words_of(pieces)[self.writer[words_of(pieces)] != NOBODY]
        if len(open_words) and not self.races.fenced(reader, open_words):
            thread = int(self.writer[open_words].max()) - 1
            raise Fault(f"an operand holds what thread {thread} wrote without fence.proxy.async")
        found: Array = self.data.reshape(-1, 16)[pieces]
        return found


def words_of(pieces: Array) -> Array:
    """(n,) 16-byte pieces -> (4 n,) words."""
    return (4 * pieces.reshape(-1, 1) + np.arange(4)).reshape(-1)
