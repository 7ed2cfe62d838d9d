"""The linears' CUDA C++ kernels, thread by thread on the CPU (tests/ptx), through the launches that a GPU gets."""

from __future__ import annotations

import pytest
import torch
from tests.plugins.test_linear_kernels import check, check_gated, make_weight
from tests.ptx.launch import Setting, interpreted

from ingot.network.weights import Scheme
from ingot.plugins.linear.launch import Skinny, run_linear
from ingot.plugins.quantize.launch import quantize_rows

BF16, CPU = torch.bfloat16, torch.device("cpu")


@pytest.mark.parametrize(
    ("scheme", "choice", "rows", "n", "k"),
    [
        (Scheme.NONE, Skinny(rows=2, warps=4, x_ahead=False), 17, 40, 384),
        (Scheme.FP8, Skinny(rows=1, warps=8), 5, 40, 1152),
        (Scheme.INT8, Skinny(warps=8, tiles=4), 9, 100, 640),
        (Scheme.INT4, Skinny(rows=2, warps=4), 3, 40, 640),
    ],
)
def test_skinny(scheme: Scheme, choice: Skinny, rows: int, n: int, k: int) -> None:
    with interpreted(Setting()):
        check(scheme, rows, n, k, choice, BF16, CPU, bias=True)


def test_what_the_previous_kernel_writes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from ingot.plugins import overlap

    monkeypatch.setattr(overlap, "supported", lambda: True)
    overlap.choose_overlap(overlap.Overlap(late=64))
    try:
        weight = make_weight(Scheme.FP8, 40, 640, BF16, CPU, bias=True)
        x = torch.randn(3, 640).bfloat16()
        with interpreted(Setting()):
            monkeypatch.setattr("ingot.plugins.quantize.launch.overlap", lambda rows: 0)
            rows = quantize_rows(x, weight)
            found = run_linear(rows, weight, Skinny(), out_dtype=BF16)
            check_gated(Scheme.FP8, 3, 40, 640, CPU, choice=Skinny(), rounds=True)
        assert torch.isfinite(found).all()
    finally:
        overlap.choose_overlap(overlap.Overlap())


@pytest.mark.parametrize(
    ("scheme", "rounds", "choice", "rows", "n", "k"),
    [
        (Scheme.NONE, False, Skinny(), 1, 2 * 37, 640),
        (Scheme.NONE, False, Skinny(rows=2, warps=4, x_ahead=False), 17, 2 * 20, 384),
        (Scheme.NONE, True, Skinny(warps=8, tiles=4), 9, 2 * 45, 256),
        (Scheme.FP8, True, Skinny(), 1, 2 * 37, 1152),
        (Scheme.FP8, True, Skinny(warps=8, tiles=2), 8, 2 * 20, 640),
        (Scheme.FP8, True, Skinny(rows=2, warps=8, tiles=4, x_ahead=False), 17, 2 * 101, 384),
        (Scheme.INT8, False, Skinny(warps=8, tiles=4), 3, 2 * 50, 640),
    ],
)
def test_skinny_that_ends_with_silu(scheme: Scheme, rounds: bool, choice: Skinny, rows: int, n: int, k: int) -> None:
    """Columns that are no multiple of a block's, of gate and of up."""
    with interpreted(Setting()):
        check_gated(scheme, rows, n, k, CPU, choice=choice, rounds=rounds)


@pytest.mark.parametrize(
    ("scheme", "rounds", "rows", "n", "k", "seed"),
    [
        (Scheme.NONE, False, 300, 256, 128, None),
        (Scheme.FP8, False, 70, 768, 640, None),
        (Scheme.NONE, False, 9, 512, 384, 1),
        (Scheme.FP8, True, 300, 512, 128, None),
        (Scheme.FP8, True, 9, 768, 384, 1),
    ],
)
def test_gated(scheme: Scheme, rounds: bool, rows: int, n: int, k: int, seed: int | None) -> None:
    """More tiles than clusters, tiles that hang over, and a ring that goes round."""
    with interpreted(Setting(seed=seed, processors=4)):
        check_gated(scheme, rows, n, k, CPU, rounds=rounds)
