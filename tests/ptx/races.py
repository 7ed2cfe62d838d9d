"""Which accesses to shared memory no barrier puts in order: vector clocks over a cluster's threads (FastTrack, Flanagan and Freund,
PLDI 2009), with the last writer and the last reader of every word.

Knows threads, words and clocks. A clock says, for each thread, up to which of its epochs everything has been seen; who releases
begins a new epoch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.ptx.faults import Fault

Array = NDArray[Any]
WARP = 32


class Races:
    def __init__(self, threads: int, words: int) -> None:
        self.seen = np.zeros((threads, threads), np.int32)
        self._epoch = np.ones(threads, np.int32)
        self.seen[np.arange(threads), np.arange(threads)] = 1
        self._writer, self._written = np.zeros((2, words), np.int32)
        self._reader, self._read = np.zeros((2, words), np.int32)
        self._fenced: dict[int, Array] = {}  # by thread: its clock at its last fence
        self._gathering: dict[Any, Array] = {}  # clocks of arrivals at what is not complete
        self._complete: dict[Any, Array] = {}

    def read(self, threads: Array, words: Array) -> None:
        """words (threads, n)."""
        self._ordered(
            self.seen[threads[:, None], self._writer[words]],
            self._written[words],
            "reads",
            "wrote",
            self._writer[words],
            threads,
        )
        self._reader[words], self._read[words] = threads[:, None], self._epoch[threads][:, None]

    def follow(self, threads: Array, words: Array) -> None:
        """Use of what was set up before: an mbarrier."""
        self._ordered(
            self.seen[threads[:, None], self._writer[words]],
            self._written[words],
            "uses",
            "set up",
            self._writer[words],
            threads,
        )

    @property
    def epochs(self) -> Array:
        return self._epoch

    def write(self, threads: Array, words: Array, epochs: Array | None = None) -> None:
        self.may_write(threads, words)
        self.wrote(threads, words, self._epoch[threads] if epochs is None else epochs)

    def fence(self, threads: Array) -> None:
        self._fenced.update({int(thread): self.seen[thread].copy() for thread in threads})

    def fenced(self, reader: int, words: Array) -> bool:
        """Whether all that was written to `words` was seen by `reader` when it last fenced."""
        clock = self._fenced.get(reader)
        return clock is not None and bool((clock[self._writer[words]] >= self._written[words]).all())

    def may_write(self, threads: Array, words: Array) -> None:
        for who, when, what in ((self._writer, self._written, "wrote"), (self._reader, self._read, "reads")):
            self._ordered(self.seen[threads[:, None], who[words]], when[words], "overwrites", what, who[words], threads)

    def wrote(self, threads: Array, words: Array, epochs: Array) -> None:
        self._writer[words], self._written[words] = threads[:, None], epochs[:, None]

    def read_with(self, clock: Array, reader: int, words: Array) -> None:
        """By an operation of a whole warp that was issued when its threads' clock was `clock`, and that the warp of `reader`, its first
        thread, has waited for: each of them knows."""
        self._ordered(
            clock[self._writer[words]], self._written[words], "uses", "wrote", self._writer[words], np.array([reader])
        )
        self._reader[words], self._read[words] = reader, self._epoch[reader]
        self.seen[reader : reader + WARP, reader] = self._epoch[reader]

    def _ordered(self, seen: Array, needed: Array, does: str, did: str, who: Array, threads: Array) -> None:
        late = seen < needed
        if late.any():
            place = np.unravel_index(int(np.argmax(late)), late.shape)
            thread = int(threads[place[0]]) if len(threads) > 1 else int(threads[0])
            raise Fault(f"thread {thread} {does} what thread {int(who[place])} {did}, and no barrier lies between")

    def touch(self, threads: Array, words: Array) -> None:
        """Use of what is in another block's memory, which must live until then."""
        self._reader[words], self._read[words] = threads[:, None], self._epoch[threads][:, None]

    def end(self, own: slice, words: slice) -> None:
        """A block of the threads `own` ends: what other threads read and wrote of its `words`, one of its own must know of."""
        known = self.seen[own].max(axis=0)
        for who, when in ((self._reader[words], self._read[words]), (self._writer[words], self._written[words])):
            foreign = (when > 0) & ((who < own.start) | (who >= own.stop))
            if not foreign.any() or (known[who[foreign]] >= when[foreign]).all():
                continue
            raise Fault(
                f"threads {own.start}-{own.stop - 1} end, and no barrier lies between what other blocks do in their memory"
            )

    def begin(self, threads: Array) -> None:
        """A new epoch of each."""
        self._epoch[threads] += 1
        self.seen[threads, threads] = self._epoch[threads]

    def meet(self, threads: Array, size: int) -> None:
        """Groups of `size` threads at a barrier: each sees all that the others saw."""
        together = self.seen[threads].reshape(-1, size, self.seen.shape[1]).max(axis=1)
        self.seen[threads] = np.repeat(together, size, axis=0)
        self.begin(threads)

    def release(self, key: Any, threads: Array) -> None:
        """Arrivals at the barrier `key`."""
        self.add(key, self.seen[threads].max(axis=0))
        self.begin(threads)

    def add(self, key: Any, clock: Array) -> None:
        held = self._gathering.get(key)
        self._gathering[key] = clock.copy() if held is None else np.maximum(held, clock)

    def complete(self, key: Any) -> None:
        """The barrier's phase is over: who waits for it sees what all its arrivals saw."""
        self._complete[key] = self._gathering.pop(key)

    def acquire(self, key: Any, threads: Array) -> None:
        if key in self._complete:
            self.seen[threads] = np.maximum(self.seen[threads], self._complete[key])
