"""mbarriers: phases and pending arrivals, as PTX counts them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from tests.ptx.faults import Fault
from tests.ptx.races import Array, Races

MOST_ARRIVALS = (1 << 20) - 1


@dataclass(slots=True)
class Barrier:
    """A phase is over when no arrival is pending."""

    expected: int
    pending: int
    phase: int = 0

    def arrive(self) -> None:
        if self.pending == 0:
            raise Fault(f"more than {self.expected} arrivals at an mbarrier in phase {self.phase}")
        self.pending -= 1
        if self.pending == 0:
            self.phase, self.pending = self.phase + 1, self.expected

    def passed(self, parity: int) -> bool:
        """try_wait.parity: of the current phase, false, or of the one before, true."""
        return self.phase % 2 != parity

    def __str__(self) -> str:
        return f"phase {self.phase}, {self.pending} of {self.expected} arrivals pending"


@dataclass(slots=True)
class Barriers:
    """All of a block, by byte index in its shared memory. `events` counts what may let somebody go on."""

    races: Races
    found: dict[int, Barrier] = field(default_factory=dict)
    events: int = 0

    def init(self, index: int, count: int) -> None:
        if index in self.found:
            raise Fault("an mbarrier is initialized twice")
        if not 1 <= count <= MOST_ARRIVALS:
            raise Fault(f"an mbarrier for {count} arrivals")
        self.found[index] = Barrier(count, count)

    def at(self, index: int) -> Barrier:
        if index not in self.found:
            raise Fault(f"there is no mbarrier at byte {index}")
        return self.found[index]

    def arrive(self, index: int, thread: int) -> None:
        clock = self.races.seen[thread].copy()
        self.races.begin(np.array([thread]))
        self.arrive_with(index, clock)

    def arrive_with(self, index: int, clock: Array) -> None:
        """An arrival of a thread, or of its copies, when its clock was `clock`."""
        barrier = self.at(index)
        phase = barrier.phase
        self.races.add(index, clock)
        barrier.arrive()
        self.events += 1
        if barrier.phase > phase:
            self.races.complete(index)
