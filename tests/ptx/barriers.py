"""mbarriers: phases, pending arrivals and bytes under way, as PTX counts them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from tests.ptx.faults import Fault
from tests.ptx.races import Array, Races

MOST_ARRIVALS = (1 << 20) - 1


@dataclass(slots=True)
class Barrier:
    """A phase is over when no arrival is pending and no byte is under way."""

    expected: int
    pending: int
    bytes: int = 0
    phase: int = 0

    def arrive(self) -> None:
        if self.pending == 0:
            raise Fault(f"more than {self.expected} arrivals at an mbarrier in phase {self.phase}")
        self.pending -= 1
        self.finish()

    def move(self, count: int) -> None:
        """expect_tx by a positive, complete_tx by a negative number of bytes."""
        self.bytes += count
        if abs(self.bytes) > MOST_ARRIVALS:
            raise Fault(f"{self.bytes} bytes under way are more than an mbarrier counts")
        self.finish()

    def finish(self) -> None:
        if self.pending == 0 and self.bytes == 0:
            self.phase, self.pending = self.phase + 1, self.expected

    def passed(self, parity: int) -> bool:
        """try_wait.parity: of the current phase, false, or of the one before, true."""
        return self.phase % 2 != parity

    def __str__(self) -> str:
        return f"phase {self.phase}, {self.pending} of {self.expected} arrivals pending, {self.bytes} bytes under way"


@dataclass(slots=True)
class Barriers:
    """All of a cluster, by byte index in its shared memory. `events` counts what may let somebody go on."""

    races: Races
    found: dict[int, Barrier] = field(default_factory=dict)
    hidden: dict[int, int] = field(
        default_factory=dict
    )  # from the copy engine: who initialized them and has not fenced
    events: int = 0

    def init(self, index: int, count: int, thread: int) -> None:
        if index in self.found:
            raise Fault("an mbarrier is initialized twice")
        if not 1 <= count <= MOST_ARRIVALS:
            raise Fault(f"an mbarrier for {count} arrivals")
        self.found[index] = Barrier(count, count)
        self.hidden[index] = thread

    def fence(self, threads: Array) -> None:
        """fence.mbarrier_init or fence.proxy.async: what these threads initialized, the copy engine may use."""
        if self.hidden:
            fenced = set(threads.tolist())
            self.hidden = {index: thread for index, thread in self.hidden.items() if thread not in fenced}

    def end(self) -> None:
        for index, barrier in self.found.items():
            if barrier.bytes:
                raise Fault(f"an mbarrier at byte {index} still counts when its block has ended: {barrier}")

    def at(self, index: int) -> Barrier:
        if index not in self.found:
            raise Fault(f"there is no mbarrier at byte {index}")
        return self.found[index]

    def arrive(self, index: int, thread: int, expect: int = 0) -> None:
        barrier = self.at(index)
        phase = barrier.phase
        self.races.release(index, np.array([thread]))
        if expect:
            barrier.move(expect)
        barrier.arrive()
        self.after(index, phase)

    def arrive_with(self, index: int, clock: Array) -> None:
        """An arrival that copies make, whose issuer's clock was `clock`."""
        phase = self.at(index).phase
        self.races.add(index, clock)
        self.at(index).arrive()
        self.after(index, phase)

    def complete(self, index: int, count: int, clock: Array) -> None:
        """Bytes of a copy, whose issuer's clock was `clock`."""
        phase = self.at(index).phase
        self.races.add(index, clock)
        self.at(index).move(-count)
        self.after(index, phase)

    def after(self, index: int, phase: int) -> None:
        self.events += 1
        if self.found[index].phase > phase:
            self.races.complete(index)
