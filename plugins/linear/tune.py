"""Finds the fastest way to run each of a model's linears at each row count, on the GPU at hand. Part of a build.

Every layer's weights are taken in turn, so that none is read from the L2; a CUDA graph leaves launch gaps out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from ingot.errors import EngineError
from ingot.network.weights import LINEARS, Scheme, Weight
from ingot.plugins.linear.launch import (
    Choice,
    Choices,
    Library,
    Skinny,
    Tiled,
    ends_with_silu,
    guess,
    run_linear,
    skinny_fits,
    skinny_gated,
)
from ingot.plugins.linear.reference import dequantize
from ingot.plugins.overlap import supported
from ingot.plugins.quantize.launch import Quantized, floats, quantize_rows
from ingot.plugins.silu_mul.launch import silu_mul
from ingot.plugins.trial import seconds
from ingot.plugins.variants import Variants

LONELY, MOST_OVERLAPPING = 2e-6, 16
KINDS: dict[str, type[Choice]] = {"library": Library, "skinny": Skinny, "tiled": Tiled}


@dataclass(frozen=True, slots=True)
class Timed:
    """A linear; gate and up's with the one that reads what SiLU makes of its output."""

    weight: Weight[Tensor]
    reader: Weight[Tensor] | None


def tune(weights: Mapping[str, Weight[Tensor]], rows: Iterable[int], dtype: torch.dtype, *, layers: int = 8) -> Choices:
    """Choices for the model's linears at these row buckets (see launch.BUCKETS)."""
    tuned: dict[tuple[str, int, int, int], Choice] = {}
    for kind in LINEARS:
        same = alike(weights, kind, layers)
        first = same[0].weight
        n, k = first.data.shape
        k *= 2 if first.scheme is Scheme.INT4 else 1
        for bucket in rows:
            x: Tensor | Quantized = torch.randn(bucket, k, device=first.data.device, dtype=dtype)
            if first.scheme in (Scheme.FP8, Scheme.INT8) and isinstance(x, Tensor):
                x = quantize_rows(x, first)
            options = right_ones(x, first, candidates(first.scheme, n, k, bucket), dtype)
            times = {option: seconds_of(x, same, option, dtype) + lonely(option, bucket) for option in options}
            tuned[first.scheme.value, n, k, bucket] = min(times, key=times.__getitem__)
    return Choices(tuned=tuned)


def alike(weights: Mapping[str, Weight[Tensor]], kind: str, layers: int) -> list[Timed]:
    """The linears of one kind in the first `layers` layers."""
    names = [f"layers.{layer}." for layer in range(layers) if f"layers.{layer}.{kind}" in weights]
    return [Timed(weights[name + kind], weights[name + "down"] if kind == "gate_up" else None) for name in names]


def lonely(option: Choice, bucket: int) -> float:
    """Seconds that a library's kernel costs more within a decode step, where it cannot overlap with its neighbours: 0.7 to 4.6 us at
    16 rows, measured on an H200."""
    return LONELY if isinstance(option, Library) and bucket <= MOST_OVERLAPPING and supported() else 0.0


def right_ones(
    x: Tensor | Quantized, weight: Weight[Tensor], options: Sequence[Choice], dtype: torch.dtype
) -> list[Choice]:
    """Those whose product is no further from float32's than twice the best one's. The guess stays, come what may."""
    truth = floats(x) @ dequantize(weight).T
    if weight.bias is not None:
        truth += weight.bias.float()
    errors = {
        option: (run_linear(x, weight, option, out_dtype=dtype).float() - truth).norm().item() for option in options
    }
    allowed = 2 * min(error for error in errors.values() if math.isfinite(error))
    return [option for option, error in errors.items() if error <= allowed or option == options[0]]


def candidates(scheme: Scheme, n: int, k: int, bucket: int) -> list[Choice]:
    options: list[Choice] = [guess(scheme, n, k, bucket)]
    if scheme in (Scheme.NONE, Scheme.FP8):
        options.append(Library())
    if scheme is Scheme.INT4 and bucket <= 64:
        options += [Skinny(rows=r, warps=w) for r, w in ((1, 4), (1, 8), (2, 4), (2, 8), (4, 4))]
    elif bucket <= 64 and skinny_fits(scheme, k):
        shapes = [(4, 1), (8, 1), (16, 1)] + ([(8, 2), (16, 2), (16, 4), (8, 4)] if bucket > 8 else [])
        # Sixteen warps' partial sums of 64 columns would not fit in static shared memory.
        options += [Skinny(warps=w, tiles=t) for w, t in shapes if w <= 8 or bucket <= 32]
    if scheme in (Scheme.FP8, Scheme.INT8) and 16 < bucket <= 256:
        options += [Tiled(bm=64, bn=64, bk=128, warps=4, stages=5), Tiled(bm=128, bn=128, bk=128, warps=8)]
    return list(dict.fromkeys(options))


def seconds_of(x: Tensor | Quantized, linears: Sequence[Timed], choice: Choice, dtype: torch.dtype) -> float:
    """Mean over the linears, median of the replays."""

    def take_all() -> None:
        for linear in linears:
            run_timed(x, linear, choice, dtype)

    return seconds(take_all, inner=1) / len(linears)


def run_timed(x: Tensor | Quantized, linear: Timed, choice: Choice, dtype: torch.dtype) -> None:
    """As a step does: gate and up's product with SiLU, within it or after."""
    weight, reader = linear.weight, linear.reader
    if reader is not None and ends_with_silu(choice, weight, reader, dtype):
        skinny_gated(x, weight, reader, choice)
        return
    out = run_linear(x, weight, choice, out_dtype=dtype)
    if reader is not None:
        silu_mul(out, reader)


def write_choices(choices: Choices, path: Path) -> None:
    lines = [
        {"scheme": scheme, "n": n, "k": k, "bucket": bucket, "kind": type(choice).__name__.lower(), **asdict(choice)}
        for (scheme, n, k, bucket), choice in choices.tuned.items()
    ]
    path.write_text(json.dumps({"variants": asdict(choices.variants), "linears": lines}, indent=1) + "\n")


def read_choices(path: Path) -> Choices:
    """Raises EngineError where the file does not hold choices of this ingot."""
    tuned: dict[tuple[str, int, int, int], Choice] = {}
    try:
        found = json.loads(path.read_text())
        for line in found["linears"]:
            place = tuple(line.pop(key) for key in ("scheme", "n", "k", "bucket"))
            tuned[place] = KINDS[line.pop("kind")](**line)
        return Choices(tuned=tuned, variants=msgspec.convert(found["variants"], Variants))
    except (ValueError, KeyError, TypeError, AttributeError) as broken:
        raise EngineError(
            f"{path} does not hold this ingot's kernel choices ({broken}).", mend="Build the engine again."
        ) from broken
