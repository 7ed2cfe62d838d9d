"""How a GPU's memory is shared out: measured, printed before the KV pool is allocated, refused where nothing is left."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ingot.errors import CapacityError
from ingot.network.config import ModelConfig

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes by purpose. `activations` and `graphs` are measured, not guessed."""

    total: int
    used_by_others: int
    weights: int
    activations: int
    graphs: int
    page_bytes: int
    num_pages: int
    share: float

    def __str__(self) -> str:
        kv = self.num_pages * self.page_bytes
        parts = [
            ("weights", self.weights),
            ("activations", self.activations),
            ("graphs", self.graphs),
            ("KV cache", kv),
        ]
        figures = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts)
        return f"GPU memory in GiB: {figures} ({self.num_pages} pages) of {self.share:.0%} of {self.total / GIB:.1f}"


def page_bytes(config: ModelConfig, page_size: int, kv_dtype: torch.dtype) -> int:
    return config.kv_elements_per_token * page_size * kv_dtype.itemsize


def plan_memory(
    *,
    share: float,
    weights: int,
    activations: int,
    graphs: int,
    bytes_per_page: int,
    least_pages: int,
    fixed_pages: int | None,
    most_pages: int | None = None,
) -> MemoryPlan:
    """The pool gets what `share` of the card leaves, `most_pages` at most, or `fixed_pages`. Raises CapacityError where those, or one sequence of
    the longest length, do not fit."""
    free, total = torch.cuda.mem_get_info()
    ours = torch.cuda.memory_reserved()
    others = max(0, total - free - ours)
    left = int(total * share) - others - weights - activations - graphs
    room = max(0, left // bytes_per_page)
    if most_pages is not None:
        room = min(room, most_pages)
    plan = MemoryPlan(
        total=total, used_by_others=others, weights=weights, activations=activations, graphs=graphs, page_bytes=bytes_per_page,
        num_pages=room if fixed_pages is None else fixed_pages, share=share,
    )  # fmt: skip
    needed = least_pages if fixed_pages is None else fixed_pages
    if room < needed:
        raise CapacityError(
            f"The model does not fit: {plan}; there is room for {room} pages and {needed} are needed.",
            mend="Build with a smaller --max-model-len or --max-num-seqs, with --quant or --kv fp8, or for a larger GPU.",
        )
    return plan
