"""The interpreter finds mistakes: a kernel with one wrong word fails, and for the reason that it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.plugins.test_attention_kernels import Case, make_case, run_prefill
from tests.plugins.test_linear_kernels import check
from tests.ptx.faults import Fault
from tests.ptx.launch import Setting, interpreted

from ingot.network.weights import Scheme
from ingot.plugins.attention import launch as attention
from ingot.plugins.linear import bulk

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
        ("wait(at.full + slot * 8, i / SLOTS & 1);", "", "a copy is on its way"),
        ("initialize(at.empty + i * 8, 4)", "initialize(at.empty + i * 8, 5)", "no thread can go on"),
        ("static_assert(SLOTS % GROUPS == 0", "static_assert(true", "a copy is on its way"),
        ("at.sums + (tile & 1) * (GROUPS * SUM_BYTES)", "at.sums", "overwrites what"),
        ("        __syncwarp();\n        if (tile == 0) cluster_wait();", "        if (tile == 0) cluster_wait();", "reads what"),
        ("if (tile == 0) cluster_wait();", "", "set up, and no barrier"),
        ("    cluster_arrive();                                // nobody leaves", "    return; //", "ends, and no barrier"),
        ('asm volatile("wgmma.fence.sync.aligned;" ::: "memory");', "", "no wgmma.fence"),
        ("(base + 1023) & ~1023u", "(base + 127) & ~127u", "multiple of 1024"),
    ],
)  # fmt: skip
def test_bulk(right: str, wrong: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "SOURCE", mistaken(bulk.SOURCE, right, wrong, tmp_path))
    monkeypatch.setattr(bulk, "POLITE_SHARED", 0)
    monkeypatch.setattr(bulk, "LEAST_SLOTS", 4)
    seed = None
    if "static_assert" in right:
        plan = bulk.layout
        monkeypatch.setattr(bulk, "layout", lambda *given: odd(plan(*given)))
        seed = 1
    with interpreted(Setting(clusters=1, seed=seed)), pytest.raises((Fault, AssertionError), match=found):
        check(Scheme.FP8, 3, 136, 1536 if seed is None else 2560, bulk.Bulk(cluster=2, groups=2), BF16, CPU, False)


def odd(plan: bulk.Layout) -> bulk.Layout:
    less = bulk.SLOT_BYTES + 16
    return bulk.Layout(cols=plan.cols, units=plan.units, slots=plan.slots - 1, shared=plan.shared - less)


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("publish();\n            if (pending_query", "if (pending_query", "without fence.proxy.async"),
        ("cp.async.wait_group 1;", "cp.async.wait_group 2;", "no barrier lies between"),
        ("                wait_products<0>();\n                pin(o);\n", "                pin(o);\n", "is wrong"),
        ("if (w.tiles == 0) break;", "", "no thread can go on"),
    ],
)  # fmt: skip
def test_prefill(right: str, wrong: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = attention.PREFILL_SOURCE
    monkeypatch.setattr(attention, "PREFILL_SOURCE", mistaken(source, right, wrong, tmp_path))
    case = make_case(CPU, BF16, [5], [300], heads=(4, 1), dim=128, page=128)
    with interpreted(Setting(processors=1)), pytest.raises((Fault, AssertionError), match=found):
        attend(case)


def attend(case: Case) -> None:
    result = run_prefill(case, spare=1, choice=attention.PrefillChoice(cuda=True))
    assert (result.float() - case.truth()).abs().max() < 0.05, "the result is wrong"
