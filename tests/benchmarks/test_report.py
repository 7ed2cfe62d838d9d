"""The report: which lines of which runs it shows, and what it says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def results(folder: Path, lines: list[dict[str, Any]]) -> Path:
    (folder / "h200-llama-3.1-8b.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def side(engine: str, mode: str, rate: float, run: str) -> dict[str, Any]:
    line = {"run": run, "engine": engine, "mode": mode, "isl": 128, "osl": 256, "requests": 16, "output_tok_s": rate}
    return line | ({"limit_tok_s": 8000.0, "share": rate / 8000} if engine == "ingot" else {})


def test_the_report_shows_both_sides_of_the_newest_run_that_has_them(
    module: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = module("report")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    results(tmp_path, [side("ingot", "bf16", 1000.0, "old"), side("ingot", "fp8kv", 2000.0, "old")])
    assert report.h200_table().splitlines()[-1] == "| 128/256 x 16 | 1,000 | 12% | 2,000 | 25% |"
    both = [
        side("ingot", "bf16", 4000.0, "b"),
        side("vllm-0.26.0", "bf16", 3200.0, "b"),
        side("ingot", "fp8kv", 6000.0, "b"),
    ]
    results(tmp_path, [*both, side("ingot", "bf16", 7000.0, "later")])
    head, _, row, _, told = report.h200_table().splitlines()
    assert told.startswith("Both sides on one machine, run `b`; of several ways of another engine, the fastest.")
    assert told.endswith("FP8 was fp8-dynamic in `b`.")
    assert "vllm-0.26.0 | ratio" in head
    assert row == "| 128/256 x 16 | 4,000 | 50% | 3,200 | 1.25 | 6,000 | 75% |  |  |"
    plot = report.h200_plot()
    assert "vllm-0.26.0, bf16" in plot
    assert "3,200 (40%)" in plot
    assert plot == report.h200_plot()


def test_the_report_compares_with_the_fastest_way_and_says_what_fp8_was(
    module: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = module("report")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    old = [side("ingot", "fp8kv", 5000.0, "a"), side("vllm-0.26.0", "fp8kv", 4000.0, "a")]
    new = [
        side("ingot", "fp8kv", 6000.0, "b") | {"quant": "fp8"},
        side("ingot", "fp8kv-dynamic", 5500.0, "b") | {"quant": "fp8-dynamic"},
        side("vllm-0.26.0", "fp8kv", 4800.0, "b") | {"quant": "fp8 checkpoint"},
        side("vllm-0.26.0", "fp8kv", 4000.0, "b") | {"quant": "fp8 online"},
    ]
    results(tmp_path, [*old, *new])
    *_, row, _, told = report.h200_table().splitlines()
    assert row.endswith("| 6,000 | 75% | 4,800 | 1.25 (1.25) |")
    assert told.endswith("FP8 was fp8 against fp8 checkpoint in `b`; fp8-dynamic against fp8 online in `a`.")
    assert "4,800 (60%)" in report.h200_plot()


def test_the_report_adds_chats_and_starts_once_they_are_measured(
    module: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = module("report")
    monkeypatch.setattr(report, "RESULTS", results(tmp_path, [side("ingot", "bf16", 1000.0, "r")]))
    chat = {
        "benchmark": "chat",
        "engine": "ingot",
        "mode": "fp8kv",
        "quant": "fp8",
        "conversations": 20,
        "turns": 8,
        "prefix_hit_rate": 0.945,
        "speedup": 2.5,
        "command": "c",
    }
    start = {"benchmark": "start", "cold": True, "seconds": 9.3, "memory": {"of_aim": 0.985}, "command": "s"}
    (tmp_path / "h200-serving.jsonl").write_text(json.dumps(chat) + "\n" + json.dumps(start) + "\n")
    table = report.h200_table()
    assert "speed-up, fp8 | 94%, 2.50 x | `c` |" in table
    assert "| engine folder to first token, on a new machine | 9.3 s | `s` |" in table
    assert "| 98.5% | `s` |" in table
