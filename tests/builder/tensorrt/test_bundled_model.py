"""Plans of the model that comes with ingot, in every scheme, for a GPU of each generation that has it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorrt_rtx as trt
import torch
from safetensors.torch import load_file, save_file
from tests.builder.onnx.random_engine import quantized
from torch import Tensor

from ingot.builder.checkpoint import open_checkpoint
from ingot.builder.onnx import EngineWeights, weight_files
from ingot.builder.pack import Packer, pack
from ingot.builder.tensorrt.rtx import compile_rtx
from ingot.manifest import Limits
from ingot.network.config import ModelConfig
from ingot.network.weights import LINEARS, Scheme

TINY = Path(__file__).parents[3] / "examples" / "tiny"
LIMITS = Limits(max_model_len=512, max_num_seqs=8, max_num_batched_tokens=128, page_size=16)


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return ModelConfig.from_hf(open_checkpoint(TINY).config)


@pytest.fixture(scope="module")
def packed(config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    folder = tmp_path_factory.mktemp("packed")
    packer = Packer(checkpoint=open_checkpoint(TINY), config=config, dtype=torch.float16)
    pack(packer, folder, lambda amount: None)
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def malformed(plan: Path) -> bool:
    """As far as a machine without a GPU can tell: whether the library finds its own format in the file."""
    runtime = trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR))
    return bool(
        runtime.get_engine_validity(plan.read_bytes())[1] & int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
    )


@pytest.mark.parametrize(
    ("scheme", "sms"),
    [
        (Scheme.NONE, [89, 120]),
        (Scheme.FP8, [89, 120]),
        (Scheme.INT8, [80, 89, 120]),
        (Scheme.INT4, [89, 120]),
        (Scheme.NVFP4, [120]),
    ],
)
def test_plans(scheme: Scheme, sms: list[int], config: ModelConfig, packed: dict[str, Tensor], tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        stem, _, kind = name.removesuffix(".weight").rpartition(".")
        linear = stem.startswith("layers.") and kind in LINEARS
        tensors |= quantized(f"{stem}.{kind}", tensor.float(), scheme, torch.float16) if linear else {name: tensor}
    save_file(tensors, tmp_path / "model.safetensors")
    weights = EngineWeights(weight_files(tmp_path))
    plans = compile_rtx(weights, config, tmp_path, limits=LIMITS, dtype="float16", sms=sms)
    expected = "float" if scheme is Scheme.NONE else str(scheme)
    linears = [types for plan in plans.plans for types in plan.linears.values()]
    assert linears == [expected] * (4 * config.num_layers)
    assert len(plans.segments) == config.num_layers + 1
    assert len(plans.plans) == (3 if scheme is Scheme.NONE else config.num_layers + 1)
    assert not any(malformed(tmp_path / "plan" / plan.plan) for plan in plans.plans)
    broken = tmp_path / "broken.plan"
    broken.write_bytes(bytes(4096))
    assert malformed(broken)
