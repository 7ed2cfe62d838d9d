"""Which of its ways each kernel takes where no row count decides it. The defaults are what has been measured; an engine
records what its build found faster (tune.py). Knows names, not tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ingot.plugins.attention.prefill import PrefillChoice
from ingot.plugins.overlap import Overlap
from ingot.plugins.silu_mul.launch import SiluChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class Variants:
    prefill: PrefillChoice | None = None  # None: as attention.prefill.choose_prefill says
    silu: SiluChoice = field(default_factory=SiluChoice)
    gated_rows: int = 0  # from which the product of gate and up ends with SiLU (linear/gated.cu); 0: never
    rotating_rows: int = 0  # of a decode step from which attention rotates by itself: no kernel for RoPE; 0: never
    rotated_prompts: int = 0  # tokens of a step with prompts from which RoPE leaves queries to prefill.cu; 0: never
    overlap: Overlap = field(default_factory=Overlap)
    mixed_tokens: int = 0  # up to which steps with prompts run as CUDA graphs, see runtime/programs/mixed_graphs.py
    decode_sizes: tuple[int, ...] = ()  # rows of captured decode steps; none: step_sizes.usual_sizes
    drawn_rows: int = (
        0  # up to which draws from a decode step's logits run as CUDA graphs, see runtime/programs/draw_graphs.py
    )
