"""The linears' CUDA C++ kernels, thread by thread on the CPU (tests/ptx), through the launches that a GPU gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.plugins.test_linear_kernels import check, make_weight
from tests.ptx.launch import Setting, interpreted

from ingot.network.weights import Scheme
from ingot.plugins.linear import bulk
from ingot.plugins.linear.bulk import Bulk
from ingot.plugins.linear.launch import Choice, Skinny, run_linear
from ingot.plugins.quantize.launch import quantize_rows

BF16, CPU = torch.bfloat16, torch.device("cpu")


def run(scheme: Scheme, rows: int, n: int, k: int, choice: Choice, setting: Setting, *, bias: bool = True) -> None:
    with interpreted(setting):
        check(scheme, rows, n, k, choice, BF16, CPU, bias)


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
    run(scheme, rows, n, k, choice, Setting())


@pytest.mark.parametrize(
    ("scheme", "choice", "rows", "n", "k", "seed"),
    [
        (Scheme.NONE, Bulk(cluster=1, groups=2), 5, 136, 1152, None),
        (Scheme.NONE, Bulk(cluster=8, groups=1), 12, 8, 128, 1),  # blocks of the cluster without a share of K
        (Scheme.FP8, Bulk(cluster=2, groups=1), 32, 200, 640, 2),
        (Scheme.FP8, Bulk(cluster=4, groups=2), 17, 40, 2176, None),
    ],
)
def test_bulk(scheme: Scheme, choice: Bulk, rows: int, n: int, k: int, seed: int | None) -> None:
    run(scheme, rows, n, k, choice, Setting(seed=seed))


@pytest.mark.parametrize("groups", [1, 2])
def test_bulk_wraps_around_its_ring(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cluster for all rows; two slots, or three where one warpgroup has them all: an odd number for two is a race."""
    monkeypatch.setattr(bulk, "POLITE_SHARED", 0)
    monkeypatch.setattr(bulk, "LEAST_SLOTS", 3)
    run(Scheme.FP8, 9, 328, 1280, Bulk(cluster=2, groups=groups), Setting(clusters=1, seed=groups), bias=False)


def test_bulk_gives_the_same_bits_in_any_order() -> None:
    weight = make_weight(Scheme.NONE, 72, 640, BF16, CPU, bias=False)
    x = torch.randn(8, 640).bfloat16()
    found = []
    for seed in (None, 3):
        with interpreted(Setting(seed=seed)):
            found.append(run_linear(x, replace(weight), Bulk(cluster=4, groups=2), out_dtype=torch.float32))
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize(("early", "choice"), [(True, Bulk()), (False, Bulk()), (True, Skinny())])
def test_what_the_previous_kernel_writes_is_waited_for(
    early: bool, choice: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingot.plugins import overlap

    monkeypatch.setattr(overlap, "supported", lambda: True)
    overlap.choose_overlap(overlap.Overlap(early=4 if early else 0, late=64))
    try:
        weight = make_weight(Scheme.FP8, 40, 640, BF16, CPU, bias=True)
        x = torch.randn(3, 640).bfloat16()
        with interpreted(Setting()):
            monkeypatch.setattr("ingot.plugins.quantize.launch.overlap", lambda rows: 0)
            rows = quantize_rows(x, weight)
            found = run_linear(rows, weight, choice, out_dtype=BF16)
        assert torch.isfinite(found).all()
    finally:
        overlap.choose_overlap(overlap.Overlap())
