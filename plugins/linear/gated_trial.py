"""Whether, and from how many rows on, the product of gate and up had better end with SiLU (gated.cu), on the GPU at hand. Part of a build."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ingot.network.weights import Weight
from ingot.plugins.linear.gated import fits_gated, gated
from ingot.plugins.linear.launch import Library, run_linear
from ingot.plugins.linear.reference import dequantize
from ingot.plugins.quantize.launch import MODES, Quantized, ended, floats, quantize_rows
from ingot.plugins.silu_mul.launch import SiluChoice, silu_mul
from ingot.plugins.silu_mul.reference import silu_mul as true_silu_mul
from ingot.plugins.trial import Trial, decide

WORTH = 0.005  # a gain, as a logarithm, that makes the other kernel worth its place
WARM = 0.3  # seconds: measured on an H200, 4.9 % faster then, and 0.5 % at the first calls
SIZES = (512, 1024, 2048, 4096)  # rows that are tried, besides those of a step full of prompts


def gated_from(
    weight: Weight[Tensor], reader: Weight[Tensor], silu: SiluChoice, dtype: torch.dtype, tokens: int
) -> int:
    """Rows from which the product of gate and up had better end with SiLU; 0 where it had not."""
    if not fits_gated(weight, dtype):
        return 0
    gains = {}
    for rows in {tokens, *(size for size in SIZES if size < tokens)}:
        took = decide(gated_trial(weight, reader, silu, dtype, rows)).seconds
        gains[rows] = math.log(took[False] / took[True]) if True in took else -math.inf
    return worth_from(gains)


def worth_from(gains: Mapping[int, float]) -> int:
    """The number of rows from which on `gains`, those of all sizes from there on together, are largest; 0 where none is above WORTH
    a size. One size that was measured badly does not decide."""
    sizes = sorted(gains)
    sums = {size: sum(gains[more] - WORTH for more in sizes[i:]) for i, size in enumerate(sizes)}
    best = max(sums, key=sums.__getitem__)
    return best if sums[best] > 0 else 0


def gated_trial(
    weight: Weight[Tensor], reader: Weight[Tensor], silu: SiluChoice, dtype: torch.dtype, rows: int, *, check_rows: int = 300
) -> Trial[object]:  # fmt: skip
    """Ways: whether the product of gate and up ends with SiLU; with the rounding for `reader`, the linear that comes next."""
    k = weight.data.shape[1]

    def rounded(num_rows: int) -> Tensor | Quantized:
        x = torch.randn(num_rows, k, device=weight.data.device).to(dtype)
        return quantize_rows(x, weight) if weight.scheme in MODES else x

    def run(x: Tensor | Quantized, within: object) -> Tensor | Quantized:
        if not within:
            return silu_mul(run_linear(x, weight, Library(), out_dtype=dtype), reader, silu)
        return ended(gated(x, weight, reader), reader)

    small, large = rounded(check_rows), rounded(rows)
    truth = true_silu_mul(floats(small) @ dequantize(weight).T)
    if reader.pre_scale is not None:
        truth = truth * reader.pre_scale

    return Trial(
        name=f"SiLU within the product, {rows} rows",
        ways=[False, True],
        check=lambda within: floats(run(small, within)),
        truth=truth,
        run=lambda within: run(large, within),
        warm=WARM,
    )
