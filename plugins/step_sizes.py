"""How many rows steps have on a GPU: full ones, and the few sizes of captured decode steps, to which others are padded. Knows numbers, no
kernels.

A library's product of 448 rows took 1.35 times as long as one of 512 on an H200 (bf16, Llama-3.1-8B's shapes), of 452 rows 0.96 times:
which sizes are good ones has to be measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

FEW = 128  # rows up to which the usual sizes are good ones: there linears take as long as their weights do to arrive
MOST = 1024  # rows above which the usual sizes are near enough to each other
APART = 4  # rows between sizes that are measured
SPACING = 32  # rows a size, on an average: 16 sizes up to 1024 would cost 1.7 % in bf16, 28 cost 0.6 %, the usual 16 cost 8.5 %

# Tokens of a full step, by what the linears multiply: 0.18 to 0.2 s of a model of 8B on an H200. Products of so many rows, in tiles of 128,
# fill whole rounds of its 132 multiprocessors. A token takes 0.6 % less than in steps of 8192 in bf16, 2.4 % less in FP8, where
# 8448 are 0.2 % and 16384 are 1.2 % faster.
FULL, FULL_FP8 = 64 * 132, 128 * 132


def full_step_tokens(quant: str) -> int:
    """Tokens of a step full of prompts where nobody says otherwise, of linears of a build's `--quant`."""
    return FULL_FP8 if quant.startswith("fp8") else FULL


def usual_sizes(most: int) -> list[int]:
    """Close together where a step is short, never more than a quarter of padding above 4."""
    few, some = [1, 2, 4, 8, 16, 24, 32, *range(48, 129, 16)], [*range(160, 256, 32), *range(256, 1024, 64)]
    sizes = [*few, *some, *range(1024, 4097, 128)]
    return [size for size in sizes if size < most] + [most]


def tried_sizes(most: int) -> list[int]:
    """Those to measure."""
    end = min(most, MOST)
    return [*range(FEW + APART, end, APART), end] if end > FEW else []


def best_sizes(seconds: Mapping[int, float], most: int) -> list[int]:
    """The usual sizes for `most` rows, those between FEW and MOST replaced by one for every SPACING rows: by those for which
    `seconds`, which must hold tried_sizes, say that steps of any number of rows, all as likely, take the least time together."""
    usual, ends = usual_sizes(most), [FEW, *tried_sizes(most)]
    # least[j]: the time of all steps of up to ends[j] rows, by as many sizes as there were rounds or fewer; path[j]: those sizes.
    least, path = [0.0] + [math.inf] * (len(ends) - 1), [list[int]() for _ in ends]
    for _ in range(-(-(ends[-1] - FEW) // SPACING)):
        for j in range(len(ends) - 1, 0, -1):  # downwards: what lies below is still of the round before
            for i in range(j):
                total = least[i] + (ends[j] - ends[i]) * seconds[ends[j]]
                if total < least[j]:
                    least[j], path[j] = total, [*path[i], ends[j]]
    return [size for size in usual if size <= FEW] + path[-1] + [size for size in usual if size > MOST]
