"""The build's choice between kernels: only what is right is timed, only what is faster is taken, and the file keeps it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.exactness import assert_as_exact_as_torch
from tests.ptx.launch import Setting, interpreted
from torch import Tensor

from ingot.network.config import ModelConfig
from ingot.network.weights import Scheme, Weight
from ingot.plugins import trial, tune
from ingot.plugins.attention.cases import PrefillCase, RotationCase
from ingot.plugins.attention.prefill import PrefillChoice, choose_prefill
from ingot.plugins.cuda_ops import CudaOps, Gated
from ingot.plugins.linear import tune as linear_tune
from ingot.plugins.linear.gated_trial import worth_from
from ingot.plugins.linear.launch import Choices, Skinny, skinny_gated
from ingot.plugins.linear.tune import read_choices, write_choices
from ingot.plugins.overlap import Overlap
from ingot.plugins.quantize.launch import Quantized
from ingot.plugins.random_weights import random_weights
from ingot.plugins.silu_mul.launch import SiluChoice
from ingot.plugins.trial import Trial, decide
from ingot.plugins.tune import prefill_ways, silu_trial
from ingot.plugins.variants import Variants

CONFIG = ModelConfig(
    family="llama", vocab_size=64, hidden_size=256, intermediate_size=96, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=64,
    max_position=2048, rms_norm_eps=1e-5, rope_theta=10_000.0, windows=(0,),
)  # fmt: skip


@pytest.mark.parametrize(
    ("second", "error", "best"),
    [
        (0.5, 0.01, "new"),
        (0.5, 0.03, "usual"),
        (0.5, float("nan"), "usual"),
        (0.995, 0.01, "usual"),
        (2.0, 0.0, "usual"),
    ],
)
def test_a_way_must_be_right_and_faster(
    monkeypatch: pytest.MonkeyPatch, second: float, error: float, best: str
) -> None:
    truth = torch.ones(100)
    errors, times = {"usual": 0.012, "new": error}, {"usual": 1.0, "new": second}
    ran: list[str] = []

    def timed(call: object, *, warm: float) -> float:
        assert callable(call)
        call()
        return times[ran[-1]]

    monkeypatch.setattr(trial, "seconds", timed)
    verdict = decide(
        Trial(name="t", ways=["usual", "new"], check=lambda way: truth * (1 + errors[way]), truth=truth, run=ran.append)
    )
    assert verdict.best == best
    assert ("new" in ran) == (error < 0.024)


def test_gate_and_up_are_timed_with_silu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the skinny kernel; after a library's."""
    after: list[int] = []
    monkeypatch.setattr(linear_tune, "silu_mul", lambda out, reader: after.append(out.shape[1]))
    monkeypatch.setattr(linear_tune, "seconds", lambda call, *, inner: call() or 1.0)
    shapes = {"qkv": (64, 64), "o": (64, 64), "gate_up": (128, 64), "down": (64, 64)}
    weights = {
        f"layers.0.{kind}": Weight(scheme=Scheme.NONE, data=torch.randn(*shape).bfloat16())
        for kind, shape in shapes.items()
    }
    launched: list[Tensor] = []

    def skinny(x: Tensor, weight: Weight[Tensor], reader: Weight[Tensor], choice: Skinny) -> Tensor | Quantized:
        assert reader is weights["layers.0.down"]
        found = skinny_gated(x, weight, reader, choice)
        assert isinstance(found, Tensor)
        launched.append(found)
        return found

    monkeypatch.setattr(linear_tune, "skinny_gated", skinny)
    with interpreted(Setting()):
        choices = linear_tune.tune(weights, [16], torch.bfloat16)
    assert set(choices.tuned) == {("none", 64, 64, 16), ("none", 128, 64, 16)}
    options = linear_tune.candidates(Scheme.NONE, 128, 64, 16)
    assert [found.shape for found in launched] == [(16, 64)] * sum(isinstance(option, Skinny) for option in options)
    assert after == [128]


@pytest.mark.parametrize("kv", ["auto", "fp8"])
def test_the_prefill_case_is_what_the_kernel_computes(device: torch.device, dtype: torch.dtype, kv: str) -> None:
    kv_dtype = torch.float8_e4m3fn if kv == "fp8" else dtype
    case = PrefillCase(CONFIG, dtype, kv_dtype, 16, [40, 1, 7], [40, 60, 90], device=str(device))
    out, truth = case.run(choose_prefill(64, kv_dtype)), case.truth()
    assert_as_exact_as_torch(out, truth.to(dtype), truth)


@pytest.mark.gpu
@pytest.mark.parametrize("kv", [torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize(("heads", "page"), [((32, 8), 16), ((7, 1), 32), ((4, 4), 64), ((16, 2), 256)])
def test_every_way_to_prefill_is_right(kv: torch.dtype, window: int, heads: tuple[int, int], page: int) -> None:
    config = replace(CONFIG, num_heads=heads[0], num_kv_heads=heads[1], head_dim=128)
    counts, lengths = [40, 2, 7, 130, 33, 513, 300], [40, 60, 90, 131, 700, 513, 1333]
    case = PrefillCase(config, torch.bfloat16, kv, page, counts, lengths, window=window)
    truth, usual = case.truth(), case.run(choose_prefill(128, kv))
    ways = prefill_ways(case)
    assert PrefillChoice(cuda=True) in ways
    for way in ways:
        assert_as_exact_as_torch(case.run(way), usual, truth)


def test_the_rotation_case_is_what_the_kernels_compute(device: torch.device, dtype: torch.dtype) -> None:
    case = RotationCase(replace(CONFIG, qk_norm=True), dtype, dtype, 16, [1, 16, 40], str(device))
    truth = case.truth()
    assert_as_exact_as_torch(case.check(False), truth.to(dtype), truth)


@pytest.mark.gpu
@pytest.mark.parametrize("kv", [torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize(
    ("heads", "page", "qk_norm", "lengths"),
    [
        ((32, 8), 32, False, [1, 16, 17, 100, 1025, 2000]),
        ((16, 2), 16, True, [33, 1, 4000]),
        ((4, 4), 64, False, [7, 64, 65] * 60),  # many blocks: two warps each
        ((8, 1), 16, False, [512] * 130 + [31]),
    ],
)
def test_attention_that_rotates_is_as_right(
    kv: torch.dtype, heads: tuple[int, int], page: int, qk_norm: bool, lengths: list[int]
) -> None:
    config = replace(
        CONFIG, num_heads=heads[0], num_kv_heads=heads[1], head_dim=128, qk_norm=qk_norm, max_position=4096
    )
    case = RotationCase(config, torch.bfloat16, kv, page, lengths)
    usual = case.check(False)
    assert_as_exact_as_torch(case.check(True), usual, case.truth())
    assert not case.work.counters.any()


@pytest.mark.gpu
@pytest.mark.parametrize("kv", [torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize(
    ("heads", "page", "qk_norm"), [((32, 8), 32, False), ((16, 2), 16, True), ((7, 1), 64, False), ((4, 4), 256, True)]
)
def test_prefill_that_rotates_is_as_right(
    kv: torch.dtype, window: int, heads: tuple[int, int], page: int, qk_norm: bool
) -> None:
    config = replace(CONFIG, num_heads=heads[0], num_kv_heads=heads[1], head_dim=128, qk_norm=qk_norm)
    counts, lengths = [40, 2, 7, 130, 33, 513, 300], [40, 60, 90, 131, 700, 513, 1333]
    case = RotationCase(config, torch.bfloat16, kv, page, lengths, counts=counts, window=window)
    usual = case.check(False)
    assert_as_exact_as_torch(case.check(True), usual, case.truth())


@pytest.mark.parametrize(
    ("device", "scheme"),
    [("cpu", Scheme.NONE), ("cpu", Scheme.INT8)]
    + [pytest.param("cuda", scheme, marks=pytest.mark.gpu) for scheme in (Scheme.NONE, Scheme.FP8, Scheme.INT8)],
    indirect=["device"],
)
def test_every_way_to_silu_is_right(device: torch.device, dtype: torch.dtype, scheme: Scheme) -> None:
    reader = Weight(scheme=scheme, data=torch.empty(0, device=device))
    asked = silu_trial(CONFIG, reader, dtype, 8, check_rows=3 if device.type == "cpu" else 600)
    usual = asked.check(asked.ways[0])
    for way in asked.ways:
        assert_as_exact_as_torch(asked.check(way), usual, asked.truth)


def test_what_is_held_is_timed_in_both_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that slows down from call to call does not tell which way is faster."""
    calls: list[str] = []

    def timed(call: Callable[[], object], *, warm: float) -> float:
        call()
        return 1.0 + len(calls)

    monkeypatch.setattr(trial, "seconds", timed)
    asked = Trial(
        name="held", ways=["usual", "new"], check=lambda way: torch.ones(1), truth=torch.ones(1), run=calls.append, warm=0.3
    )  # fmt: skip
    verdict = decide(asked)
    assert calls == ["usual", "new", "new", "usual"]
    assert verdict.seconds == {"usual": 7.0, "new": 7.0}


@pytest.mark.parametrize(
    ("gains", "first"),
    [
        ({512: -0.05, 1024: 0.03, 8448: 0.04}, 1024),
        ({512: 0.03, 1024: 0.03, 8448: -0.01}, 512),
        ({512: -0.05, 1024: 0.01, 8448: -0.04}, 0),
        ({512: 0.1, 1024: -math.inf, 8448: 0.03}, 8448),
        ({512: 0.001}, 0),
    ],
)
def test_silu_within_the_product_is_taken_from_where_it_pays(gains: dict[int, float], first: int) -> None:
    assert worth_from(gains) == first


def test_decode_steps_are_timed_at_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """By all kernels but attention's, of a model's first layers."""
    times, rows = {4: 2.0, 8: 3.0}, list[int]()
    linear = CudaOps.linear

    def counted(ops: CudaOps, name: str, x: Any) -> Any:
        out = linear(ops, name, x)
        rows.append(len(x.gate_up if isinstance(x, Gated) else x))
        return out

    def timed(call: Callable[[], object], *, inner: int) -> float:
        call()
        assert len(set(rows[-4:])) == 1
        return times[rows[-1]]

    monkeypatch.setattr(CudaOps, "linear", counted)
    monkeypatch.setattr(tune, "seconds", timed)
    monkeypatch.setattr(tune, "tried_sizes", lambda seqs: [4, 8])
    monkeypatch.setattr(tune, "best_sizes", lambda seconds, seqs: [int(seconds == times), seqs])
    weights = random_weights(CONFIG, Scheme.NONE, torch.float16, torch.device("cpu"))
    assert tune.decode_sizes(CONFIG, weights, Choices(tuned={}), torch.float16, 8) == (1, 8)
    assert len(rows) == 2 * 2 * 4 * min(CONFIG.num_layers, tune.LAYERS)


def test_variants_survive_their_file(tmp_path: Path) -> None:
    variants = Variants(
        prefill=PrefillChoice(cuda=True),
        silu=SiluChoice(fast=True, warps=16),
        overlap=Overlap(ahead=16, late=64),
        rotated_prompts=4096,
        rotating_rows=512,
        decode_sizes=(1, 2, 452),
    )
    write_choices(Choices(tuned={}, variants=variants), tmp_path / "choices.json")
    assert read_choices(tmp_path / "choices.json").variants == variants
