"""How much a build holds in memory, and the arithmetic of what an engine will hold."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.builder.conftest import LLAMA, module_rows

from ingot.builder.memory import human, needs, plan_limits
from ingot.builder.recipe import Recipe
from ingot.builder.shards import ShardWriter
from ingot.network.config import ModelConfig
from ingot.network.names import sources
from ingot.network.weights import LINEARS, linear_shape

MIB = 1 << 20
LARGE = {
    **LLAMA,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 10,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 8192,
    "tie_word_embeddings": True,
}

# Peak resident memory while the stage runs, less what is resident before it: libraries loaded, one tensor quantized.
PROBE = """
import json, sys
from pathlib import Path
import torch
from ingot.builder.checkpoint import open_checkpoint
from ingot.builder.pack import Packer, pack
from ingot.builder.quantize.dynamic import quantize_dynamic, quantize_rows
from ingot.network.config import ModelConfig
folder, out, stage = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
out.mkdir()
checkpoint = open_checkpoint(folder)
config = ModelConfig.from_hf(checkpoint.config)
quantize_rows(torch.ones(64, 64))
def status(field):
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1])

resident = status("VmRSS")
if stage == "quantize":
    quantize_dynamic(checkpoint, config, out, lambda amount: None)
else:
    pack(Packer(checkpoint=checkpoint, config=config, dtype=torch.bfloat16), out, lambda amount: None)
print((status("VmHWM") - resident) << 10)  # not ru_maxrss: exec keeps the parent's peak in it
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 350 MiB, one layer 32 MiB, the embedding 16 MiB."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "config.json").write_text(json.dumps(LARGE))
    config = ModelConfig.from_hf(LARGE)
    with ShardWriter(folder) as shards:
        for name, modules in sources(config).items():
            for module in modules:
                shards.add(f"{module}.weight", torch.ones(shape_of(config, name, module), dtype=torch.bfloat16))
    return folder


def shape_of(config: ModelConfig, name: str, module: str) -> tuple[int, ...]:
    kind = name.rpartition(".")[2]
    if kind in LINEARS:
        rows, columns = linear_shape(config, kind)
        return module_rows(config, module, rows), columns
    return (config.vocab_size, config.hidden_size) if kind == "embed" else (config.hidden_size,)


@pytest.mark.parametrize("stage", ["quantize", "pack"])
def test_streaming_stages_hold_less_than_two_layers_and_the_embedding(large: Path, tmp_path: Path, stage: str) -> None:
    probe = [sys.executable, "-c", PROBE, str(large), str(tmp_path / "out"), stage]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    layer, embedding = 32 * MIB, 16 * MIB
    peak = int(done.stdout)
    print(f"{stage}: peak {human(peak)}, checkpoint {human(10 * layer + embedding)}")
    assert peak < 2 * layer + embedding


def limits_of(**knobs: Any) -> Any:
    target = knobs.pop("target", "cpu")
    config = ModelConfig.from_hf(LLAMA)
    return plan_limits(Recipe(model="m", out="o", **knobs), config, target=target, kv_dtype="float32")


def test_the_pool_holds_what_all_sequences_could_use_but_no_more_than_kv_memory() -> None:
    page = 2 * 2 * 4 * 32 * 16 * 4
    assert limits_of(max_num_seqs=2, max_model_len=100).num_pages == 2 * 7
    assert limits_of(kv_memory=page * 20).num_pages == 20
    assert limits_of(target="cuda").num_pages is None


def test_a_length_left_open_is_cut_to_the_pool() -> None:
    page = 2 * 2 * 4 * 32 * 16 * 4
    assert limits_of(kv_memory=page * 4).max_model_len == 64
    assert limits_of().max_model_len == 256


def test_open_limits_agree_with_each_other() -> None:
    assert limits_of(max_num_batched_tokens=8).max_num_seqs == 8
    assert limits_of(max_num_seqs=5000).max_num_batched_tokens == 5000


def test_a_step_of_half_the_bytes_takes_twice_the_tokens() -> None:
    """On the cuda target; TensorRT's plans keep their shapes."""
    found = {
        (target, quant): limits_of(target=target, quant=quant).max_num_batched_tokens
        for target in ("cuda", "tensorrt")
        for quant in ("none", "fp8", "fp8-dynamic", "int4")
    }
    assert [found["cuda", quant] for quant in ("none", "fp8", "fp8-dynamic", "int4")] == [8448, 16896, 16896, 8448]
    assert {found["tensorrt", quant] for quant in ("none", "fp8")} == {8192}


def test_calibration_is_said_to_hold_the_whole_model() -> None:
    config = replace(ModelConfig.from_hf(LARGE), num_layers=1000)
    size = 33 << 30
    assert needs(config, checkpoint=size, quant="int4", dtype="bfloat16").ram > size
    assert needs(config, checkpoint=size, quant="fp8-dynamic", dtype="bfloat16").ram < size // 4
