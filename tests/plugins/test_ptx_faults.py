"""The interpreter finds mistakes: a kernel with one wrong word fails, and for the reason that it is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.plugins.test_attention_kernels import Case, make_case, run_prefill
from tests.plugins.test_attention_ptx import test_decode_waits_for_the_newest_token_alone as decode_ahead
from tests.plugins.test_linear_kernels import check_gated, make_weight
from tests.plugins.test_tune import CONFIG
from tests.ptx.faults import Fault
from tests.ptx.launch import Setting, interpreted

from ingot.network.weights import Scheme
from ingot.plugins.attention import launch as attention
from ingot.plugins.attention import prefill as prompts
from ingot.plugins.attention.cases import RotationCase
from ingot.plugins.linear import gated
from ingot.plugins.linear import launch as linear
from ingot.plugins.overlap import LATE

BF16, CPU = torch.bfloat16, torch.device("cpu")


def mistaken(source: Path, right: str, wrong: str, folder: Path) -> Path:
    text = source.read_text()
    assert text.count(right) == 1
    path = folder / source.name
    path.write_text(text.replace(right, wrong))
    return path


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ('asm volatile("griddepcontrol.wait;" ::: "memory");', "", "before griddepcontrol.wait"),
        ("    __syncthreads();\n", "", "reads what thread"),
        ("min(t * 8 + g, m_rows - 1)", "(t * 8 + g)", "of argument tensor"),
    ],
)
def test_skinny(right: str, wrong: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "SOURCE", mistaken(linear.SOURCE, right, wrong, tmp_path))
    monkeypatch.setattr(linear, "linear_overlap", lambda rows: LATE)
    weight = make_weight(Scheme.NONE, 40, 640, BF16, CPU, bias=False)
    with interpreted(Setting()), pytest.raises(Fault, match=found):
        linear.run_linear(torch.randn(3, 640).bfloat16(), weight, linear.Skinny(warps=4), out_dtype=BF16)


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("min(n0 + r * 8 + g, n_rows - 1) + half", "n0 + r * 8 + g + half", "of argument tensor"),
        ("m >= m_rows || n >= n_rows", "m >= m_rows", "of argument tensor"),
        ("m < m_rows; m += WARPS * 32) out_scale", "m <= m_rows; m += WARPS * 32) out_scale", "of argument tensor"),
        ("row / 8 * 16 + 8 + row % 8", "row / 8 * 16 + row % 8", "times PyTorch's"),
        ("WIDTH = ROWS * (GATED ? 8 : 16)", "WIDTH = ROWS * 16", "is outside"),
        ("if (blockIdx.x == 0)\n", "if (blockIdx.x == gridDim.x)\n", "torch.equal"),
    ],
)
def test_skinny_that_ends_with_silu(
    right: str, wrong: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "SOURCE", mistaken(linear.SOURCE, right, wrong, tmp_path))
    with interpreted(Setting()), pytest.raises((Fault, AssertionError), match=found):
        check_gated(Scheme.FP8, 5, 2 * 37, 128, CPU, choice=linear.Skinny(warps=4), rounds=True)


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("expect(bar, 3 * PIECE);", "expect(bar, 2 * PIECE);", "no barrier lies between"),
        ("                    wait(empty + slot * 8, (step / SLOTS & 1) ^ 1);\n", "", "more than 1 arrivals"),
        ("                wait(full + slot * 8, step / SLOTS & 1);\n", "", "no thread can go on"),
        ("initialize(empty + i * 8, 16)", "initialize(empty + i * 8, 8)", "a copy is on its way"),
        ("if (row + at < m_rows)", "if (row + at <= m_rows)", "of argument tensor"),
    ],
)
def test_gated(right: str, wrong: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gated, "SOURCE", mistaken(gated.SOURCE, right, wrong, tmp_path))
    with interpreted(Setting()), pytest.raises(Fault, match=found):
        check_gated(Scheme.NONE, 30, 256, 640, CPU)


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("lane < 16 && row + lane < m_rows", "lane < 16", "of argument tensor"),
        ("if (tile.column == 0 && lane", "if (tile.column < 0 && lane", "torch.equal"),
        ("of_up_column *= 1.f / input_scale[0];", "", "times PyTorch's"),
        ("#define PASSES ELEMENT", "#define PASSES 2", "is read, which nobody wrote"),
    ],
)
def test_gated_that_rounds(right: str, wrong: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gated, "SOURCE", mistaken(gated.SOURCE, right, wrong, tmp_path))
    with interpreted(Setting()), pytest.raises((Fault, AssertionError), match=found):
        check_gated(Scheme.FP8, 30, 512, 128, CPU, rounds=True)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("old = (tile + 1) * TILE < length;", "old = true;"),
        ("(tile + 1) * TILE < length", "tile * TILE < length"),
    ],
)
def test_decode(right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SOURCE", mistaken(attention.SOURCE, right, wrong, tmp_path))
    with pytest.raises(Fault, match="what the previous kernel writes"):
        decode_ahead(False, False, monkeypatch)


@pytest.mark.parametrize(
    ("right", "wrong", "found", "fp8"),
    [
        ('asm volatile("fence.proxy.async.shared::cta;" ::: "memory");', "", "without fence.proxy.async", False),
        ('asm volatile("fence.proxy.async.shared::cta;" ::: "memory");', "", "without fence.proxy.async", True),
        ("            wait(full + at % SLOTS * 8, at / SLOTS & 1);\n", "", "a copy is on its way", False),
        ("            wait(full + at % SLOTS * 8, at / SLOTS & 1);\n", "", "no barrier lies between", True),
        ("            wait(empty + slot * 8, (step / SLOTS & 1) ^ 1);\n", "", "overwrites what", False),
        ("initialize(empty + i * 8, 8)", "initialize(empty + i * 8, 9)", "no thread can go on", False),
        ("initialize(full + i * 8, 128)", "initialize(full + i * 8, 127)", "no barrier lies between", True),
        ("            sync();\n            for (int i = lane", "            for (int i = lane", "reads what", False),
        ("__device__ __forceinline__ void begin_products() { ", "__device__ __forceinline__ void begin_products() { return; ",
         "no wgmma.fence", False),
        ("(shared_address(raw) + 1023) & ~1023u", "(shared_address(raw) + 127) & ~127u", "multiple of 1024", False),
        ("                wait_products<0>();\n                pin(o);\n", "                pin(o);\n", "is wrong", False),
        ("if (w.tiles == 0) break;", "", "no thread can go on", False),
        ("setmaxnreg.dec.sync.aligned.u32 104;", "setmaxnreg.dec.sync.aligned.u32 112;", "registers of the", False),
        ("initialize(query_full + i * 8, 129)", "initialize(query_full + i * 8, 130)", "no thread can go on", False),
    ],
)  # fmt: skip
def test_prefill(
    right: str, wrong: str, found: str, fp8: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = prompts.SOURCE
    monkeypatch.setattr(prompts, "SOURCE", mistaken(source, right, wrong, tmp_path))
    case = make_case(CPU, BF16, [5], [300], heads=(4, 1), dim=128, page=128, fp8=fp8)
    with interpreted(Setting(processors=1)), pytest.raises((Fault, AssertionError), match=found):
        attend(case)


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ('asm volatile("cp.async.wait_group 0;" ::: "memory");', "", "a copy is on its way"),
        ("rotated == 4) arrive", "rotated == 3) arrive", "no barrier lies between"),
        ("w.position + row / GROUP, ", "w.position + row / GROUP + 1, ", "is wrong"),
    ],
)  # fmt: skip
def test_prefill_that_rotates(
    right: str, wrong: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "SOURCE", mistaken(prompts.SOURCE, right, wrong, tmp_path))
    config = replace(CONFIG, num_heads=4, num_kv_heads=1, head_dim=128)
    case = RotationCase(config, BF16, BF16, 128, [10], "cpu", counts=[5])
    with interpreted(Setting(processors=1)), pytest.raises((Fault, AssertionError), match=found):
        assert (case.check(True) - case.truth()).abs().max() < 0.05, "the result is wrong"


def attend(case: Case) -> None:
    result = run_prefill(case, spare=1, choice=prompts.PrefillChoice(cuda=True))
    assert (result.float() - case.truth()).abs().max() < 0.05, "the result is wrong"
