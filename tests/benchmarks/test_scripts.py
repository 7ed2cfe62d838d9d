"""The benchmarks that other programs or a GPU take part in, with stand-ins for those: what they run, keep and report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from ingot.builder import Recipe
from ingot.runtime import LLM, SamplingParams

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
TINY = ROOT / "examples" / "tiny"
FAKE_VLLM = """
import sys, types
from pathlib import Path
__version__ = "0.26.0"
class SamplingParams:
    def __init__(self, temperature, max_tokens, ignore_eos, detokenize):
        assert temperature == 0 and ignore_eos and not detokenize
        self.max_tokens = max_tokens
class LLM:
    def __init__(self, **words):
        assert words["load_format"] == ("safetensors" if list(Path(words["model"]).glob("*.safetensors")) else "dummy")
        assert words["skip_tokenizer_init"] and not words["enable_prefix_caching"]
        assert words.get("kv_cache_dtype") == (None if words.get("quantization") is None else "fp8")
        print("a word of its own")
    def generate(self, prompts, params, use_tqdm):
        if len(prompts) == 13:
            sys.exit(3)
        one = types.SimpleNamespace(token_ids=[0] * params.max_tokens)
        return [types.SimpleNamespace(outputs=[one]) for _ in prompts]
"""


def script(name: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / name), *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "vllm.py").write_text(FAKE_VLLM)
    return tmp_path / "site"


def test_vllms_figures_become_lines_of_the_same_run(site: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    ours = {
        "run": "r1",
        "engine": "ingot",
        "mode": "bf16",
        "isl": 8,
        "osl": 4,
        "requests": 2,
        "output_tok_s": 5.0,
        "limit_tok_s": 9.0,
    }
    results.write_text(json.dumps(ours) + "\n")
    words = ("--site", site, "--model", TINY, "--workloads", "8/4x2,6/2x3", "--run", "r1", "--output", results)
    done = script("versus_vllm.py", *words)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(text) for text in results.read_text().splitlines()][1:]
    assert [(line["mode"], line["isl"], line["requests"]) for line in lines] == [
        ("bf16", 8, 2), ("bf16", 6, 3), ("fp8kv", 8, 2), ("fp8kv", 6, 3),
    ]  # fmt: skip
    assert {line["engine"] for line in lines} == {"vllm-0.26.0"}
    assert {line["run"] for line in lines} == {"r1"}
    assert [line["limit_tok_s"] for line in lines] == [9.0, None, None, None]
    assert lines[0]["versions"]["vllm"] == "0.26.0"
    assert lines[0]["weights"] == "checkpoint"
    assert lines[0]["command"].startswith("python benchmarks/vllm_offline.py bf16 ")
    assert [json.loads(text) for text in done.stdout.splitlines()] == lines
    assert "a word of its own" in done.stderr
    assert "ratio" in done.stderr


def test_what_vllm_measured_before_it_died_is_kept(site: Path, tmp_path: Path) -> None:
    results, config = tmp_path / "results.jsonl", tmp_path / "config"
    config.mkdir()
    shutil.copy(TINY / "config.json", config)
    words = ("--site", site, "--model", config, "--modes", "bf16", "--run", "r", "--output", results)
    done = script("versus_vllm.py", *words, "--workloads", "8/4x2,8/4x20")
    assert done.returncode == 0, done.stderr  # warm-ups have 16 requests at most
    assert [json.loads(text)["weights"] for text in results.read_text().splitlines()] == ["dummy", "dummy"]
    done = script("versus_vllm.py", *words, "--workloads", "8/4x13")
    assert done.returncode == 1
    assert "ended with code 3" in done.stderr
    assert len(results.read_text().splitlines()) == 2


def test_random_weights_become_a_checkpoint_that_lacks_nothing(tmp_path: Path) -> None:
    config, out = tmp_path / "config", tmp_path / "out"
    config.mkdir()
    shape = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=False, attention_bias=True, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    shape.save_pretrained(config)
    done = script("random_checkpoint.py", config, "-o", out)
    assert done.returncode == 0, done.stderr
    model, info = LlamaForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    weight = model.model.layers[1].mlp.up_proj.weight.detach().float()
    assert abs(float(weight.std()) - 32**-0.5) < 0.02
    assert not weight.equal(model.model.layers[1].mlp.gate_proj.weight.detach().float())


def test_a_random_checkpoint_takes_no_other_folders_place(tmp_path: Path) -> None:
    own, out = tmp_path / "own", tmp_path / "out"
    own.mkdir()
    (own / "model.safetensors").write_bytes(b"mine")
    done = script("random_checkpoint.py", TINY, "-o", own)
    assert done.returncode == 2
    assert "did not write" in done.stderr
    assert (own / "model.safetensors").read_bytes() == b"mine"
    for _ in range(2):  # what it wrote itself it writes again
        done = script("random_checkpoint.py", TINY, "-o", out)
        assert done.returncode == 0, done.stderr
    assert (out / "model.safetensors").read_bytes() != (TINY / "model.safetensors").read_bytes()


def test_only_a_llama_becomes_a_random_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(
            json.loads((TINY / "config.json").read_text())
            | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
        )
    )
    done = script("random_checkpoint.py", tmp_path, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert not (tmp_path / "out").exists()


def test_the_plan_for_a_gpu_is_told_before_it_runs(tmp_path: Path) -> None:
    done = script("gpu_figures.py", "--plan", "--config", TINY, "--run", "r1", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "left out: needs --vllm" in done.stdout
    assert "minutes in all" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == {"run": "r1", "seconds": {}, "failed": []}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Loads a benchmark as scripts are run: its folder goes before others."""
    monkeypatch.syspath_prepend(BENCHMARKS)

    def load(name: str) -> ModuleType:
        monkeypatch.delitem(sys.modules, name, raising=False)
        found = __import__(name)
        monkeypatch.delitem(sys.modules, name)
        return found

    return load


def test_an_engine_of_random_weights_is_an_engine(module: Callable[[str], ModuleType], tmp_path: Path) -> None:
    recipe = Recipe(model="m", out="o", quant="fp8", kv="fp8", target="cpu", max_model_len=64, max_num_seqs=4)
    manifest = module("random_engine").write_engine(tmp_path / "engine", TINY, recipe)
    assert manifest.kv_dtype == "float8_e4m3fn"
    with LLM(tmp_path / "engine") as llm:
        (found,) = llm.generate("Hello", SamplingParams(max_tokens=3, ignore_eos=True))
    assert len(found.token_ids) == 3


def test_every_piece_fits_its_time_and_names_options_that_exist(module: Callable[[str], ModuleType]) -> None:
    plan = module("gpu_figures")
    values = {"config": "C", "vllm": "V", "run": "R", "results": "D", **plan.FILES}
    assert sum(piece.minutes for piece in plan.PIECES) < 30
    assert sum(piece.minutes for piece in plan.PIECES if piece.needs == "vllm") <= 12
    for piece in plan.PIECES:
        command = plan.words(piece, **values)
        assert piece.minutes < 10
        assert command[0] == sys.executable
        files = [word for word in command if word.endswith(".py")]
        assert all((ROOT / file).is_file() for file in files)
        if "ingot.cli" in command:
            page = (
                (ROOT / "docs" / "cli.md")
                .read_text()
                .partition(f"## ingot bench {command[4]}\n")[2]
                .partition("\n## ")[0]
            )
            assert not [word for word in command if word.startswith("--") and word not in page]


def test_a_piece_that_runs_too_long_is_ended_and_told(module: Callable[[str], ModuleType], tmp_path: Path) -> None:
    plan = module("gpu_figures")
    piece = plan.PIECES[-1]
    late = plan.run_piece(piece, tmp_path, ["sh", "-c", "echo '{}'; exec sleep 600"], 2)
    assert late.code == 124
    assert (tmp_path / "h200-kernels.jsonl").read_text() == "{}\n"


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
    assert told == "Both sides on one machine, run `b`."
    assert "vllm-0.26.0 | ratio" in head
    assert row == "| 128/256 x 16 | 4,000 | 50% | 3,200 | 1.25 | 6,000 | 75% |  |  |"
    plot = report.h200_plot()
    assert "vllm-0.26.0, bf16" in plot
    assert "3,200 (40%)" in plot
    assert plot == report.h200_plot()


def test_the_report_adds_chats_and_starts_once_they_are_measured(
    module: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = module("report")
    monkeypatch.setattr(report, "RESULTS", results(tmp_path, [side("ingot", "bf16", 1000.0, "r")]))
    chat = {
        "benchmark": "chat",
        "conversations": 20,
        "turns": 8,
        "prefix_hit_rate": 0.945,
        "speedup": 2.5,
        "command": "c",
    }
    start = {"benchmark": "start", "cold": True, "seconds": 9.3, "memory": {"of_aim": 0.985}, "command": "s"}
    (tmp_path / "h200-serving.jsonl").write_text(json.dumps(chat) + "\n" + json.dumps(start) + "\n")
    table = report.h200_table()
    assert "| 94%, 2.50 x | `c` |" in table
    assert "| engine folder to first token, on a new machine | 9.3 s | `s` |" in table
    assert "| 98.5% | `s` |" in table
