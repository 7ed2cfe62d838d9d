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

import pytest
from transformers import LlamaForCausalLM

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
        static = (Path(words["model"]) / "hf_quant_config.json").exists()
        assert words.get("quantization") in ((None,) if static else (None, "fp8"))
        assert words.get("kv_cache_dtype") == ("fp8" if static or words.get("quantization") else None)
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
    assert [line["quant"] for line in lines] == ["none", "none", "fp8 online", "fp8 online"]
    assert {line["run"] for line in lines} == {"r1"}
    assert [line["limit_tok_s"] for line in lines] == [9.0, None, None, None]
    assert lines[0]["versions"]["vllm"] == "0.26.0"
    assert lines[0]["weights"] == "checkpoint"
    assert lines[0]["command"].startswith("python benchmarks/vllm_offline.py bf16 ")
    assert [json.loads(text) for text in done.stdout.splitlines()] == lines
    assert "a word of its own" in done.stderr
    assert "ratio" in done.stderr


def test_vllm_also_runs_from_a_checkpoint_in_fp8(site: Path, llama: Path, tmp_path: Path) -> None:
    results, plain, static = tmp_path / "results.jsonl", tmp_path / "plain", tmp_path / "static"
    assert script("random_checkpoint.py", llama, "-o", plain).returncode == 0
    assert script("random_checkpoint.py", llama, "-o", static, "--quant", "fp8").returncode == 0
    words = ("--site", site, "--workloads", "8/4x2", "--run", "r", "--output", results)
    done = script("versus_vllm.py", *words, "--model", static, "--modes", "fp8kv-checkpoint")
    assert done.returncode == 0, done.stderr
    done = script("versus_vllm.py", *words, "--model", plain, "--modes", "fp8kv")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(text) for text in results.read_text().splitlines()]
    assert [(line["mode"], line["quant"]) for line in lines] == [("fp8kv", "fp8 checkpoint"), ("fp8kv", "fp8 online")]
    assert lines[0]["command"].startswith("python benchmarks/vllm_offline.py fp8kv-checkpoint ")
    for mode, model in (("fp8kv-checkpoint", plain), ("bf16", static)):  # what would be measured as what it is not
        done = script("versus_vllm.py", *words, "--model", model, "--modes", mode)
        assert done.returncode == 1
        assert "is for a checkpoint in" in done.stderr


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


def test_random_weights_become_a_checkpoint_that_lacks_nothing(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = script("random_checkpoint.py", llama, "-o", out)
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
    assert sum(piece.minutes for piece in plan.PIECES) < 35
    assert sum(piece.minutes for piece in plan.PIECES if piece.needs == "vllm") <= 16
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
