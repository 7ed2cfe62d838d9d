"""How much of a GPU is in use, against the share that a load plans to fill. Knows figures, not what they are for."""

from __future__ import annotations

from dataclasses import dataclass

import torch

SHARE = 0.9  # of the card, as programs plan
TOLERANCE = 0.03
GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Bytes, measured by the driver once the program has run: weights, pool, graphs, workspaces and other processes."""

    used: int
    total: int

    @property
    def of_aim(self) -> float:
        return self.used / (SHARE * self.total)

    @property
    def within(self) -> bool:
        return abs(self.of_aim - 1) <= TOLERANCE

    def __str__(self) -> str:
        verdict = "within" if self.within else "NOT within"
        return (
            f"GPU memory in use: {self.used / GIB:.2f} GiB, {self.of_aim:.1%} of {SHARE:.0%} of {self.total / GIB:.2f} GiB, "
            f"{verdict} {TOLERANCE:.0%} of it"
        )

    def line(self) -> dict[str, object]:
        figures = {"used_gib": round(self.used / GIB, 2), "of_aim": round(self.of_aim, 4)}
        return {**figures, "total_gib": round(self.total / GIB, 2), "within": self.within}


def memory_use() -> MemoryUse | None:
    """None without a GPU: on a CPU the pool's size is fixed when the engine is built."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return MemoryUse(used=total - free, total=total)
