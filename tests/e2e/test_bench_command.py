"""`ingot bench` as a person runs it, with the bundled model: tables for people, a JSON line last, results kept at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from ingot.errors import IngotError
from ingot.runtime.bench import subject
from ingot.runtime.bench.commands import bench as command

TINY = Path(__file__).resolve().parents[2] / "examples" / "tiny"
Bench = Callable[..., str]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Runs the command in this process, which goes on as it was; returns its standard output. Raises what it raises."""
    monkeypatch.setattr(subject, "calm_garbage_collection", lambda: None)
    threads = torch.get_num_threads()

    def run(*words: str | Path) -> str:
        monkeypatch.setattr("sys.argv", ["ingot", "bench", *map(str, words)])
        done = CliRunner().invoke(command, [*map(str, words)], catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    yield run
    torch.set_num_threads(threads)


def last_line(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def test_offline_measures_every_workload_and_names_the_ratio(bench: Bench, engine: Path, tmp_path: Path) -> None:
    kept, other = tmp_path / "ours.jsonl", tmp_path / "theirs.jsonl"
    theirs = {
        "run": "r1",
        "engine": "vllm-0.26.0",
        "mode": "fp32",
        "isl": 24,
        "osl": 6,
        "requests": 3,
        "output_tok_s": 1.0,
    }
    other.write_text(json.dumps(theirs) + "\n")
    words = ("--workloads", "16/4x1,24/6x3", "--run", "r1", "--versus", other, "--output", kept)
    out = bench("offline", engine, *words)
    lines = [json.loads(text) for text in kept.read_text().splitlines()]
    assert [(line["isl"], line["osl"], line["requests"]) for line in lines] == [(16, 4, 1), (24, 6, 3)]
    line = last_line(out)
    assert line == lines[-1]
    assert (line["run"], line["engine"], line["mode"], line["quant"]) == ("r1", "ingot", "fp32", "none")
    assert line["share"] == pytest.approx(line["output_tok_s"] / line["limit_tok_s"], rel=0.01)
    assert set(line["ceilings"]) == {"copy", "fp32"}
    assert line["versions"]["torch"]
    assert line["command"].startswith("ingot bench offline ")
    assert "--output" not in line["command"]
    steps = [step["step"] for step in line["breakdown"]]
    assert steps == ["decode 3 x 27", "prompt 3 x 24"]
    assert all(step["parts_ms"]["gemm"] > 0 and step["parts_ms"]["attention"] > 0 for step in line["breakdown"])
    assert "vllm-0.26.0" in out
    assert "GEMM" in out


@pytest.mark.parametrize(("quant", "mode"), [("int8", "int8kv"), ("fp8", "fp8kv"), ("fp8-dynamic", "fp8kv-dynamic")])
def test_offline_runs_a_shape_without_an_engine(bench: Bench, quant: str, mode: str) -> None:
    words = ("--quant", quant, "--kv", "fp8", "--workloads", "16/4x2", "--no-breakdown")
    line = last_line(bench("offline", "--random-weights", TINY, *words))
    assert (line["mode"], line["quant"]) == (mode, quant)
    assert line["output_tok_s"] > 0
    assert "breakdown" not in line


def test_chats_are_found_in_the_prefix_cache(bench: Bench, engine: Path) -> None:
    words = ("--conversations", "3", "--turns", "3", "--system", "64", "--question", "16", "--answer", "4")
    out = bench("chat", engine, *words)
    line = last_line(out)
    assert (line["benchmark"], line["conversations"]) == ("chat", 3)
    assert line["prefix_hit_rate"] > 0.5
    assert line["seconds"] > 0
    assert "no cache" in out


def test_a_start_is_timed_phase_by_phase(bench: Bench, engine: Path, tmp_path: Path) -> None:
    out = bench("start", engine, "--cold", "--output", tmp_path / "starts.jsonl")
    line = last_line(out)
    phases = list(line["phases_s"])
    assert (phases[0], phases[-1]) == ("process and imports", "first token")
    assert sum(line["phases_s"].values()) == pytest.approx(line["seconds"], abs=0.05)
    assert json.loads((tmp_path / "starts.jsonl").read_text()) == line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["offline"], "Give one of ENGINE and --random-weights"),
        (["chat", "somewhere", "--quant", "fp8"], "--quant is for --random-weights"),
        (["offline", "somewhere", "--workloads", "1/2"], "is not a workload"),
        (["offline", "somewhere", "--versus", "nowhere"], "nowhere does not hold results"),
        (["start", "."], "is not an engine"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(command, words)
    assert done.exit_code
    assert said in (done.stderr or str(done.exception))


def test_a_configuration_that_cannot_be_read_is_named(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(IngotError, match=r"is not a readable config\.json"):
        bench("offline", "--random-weights", tmp_path)
