"""Engines of plans as programs, on host memory: TensorRT's runtime is a fake that computes, attention the real kernels in
Triton's interpreter. Tokens are the cpu target's; what was bound, captured and replayed is looked at besides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.builder.onnx.random_engine import config
from tests.runtime import fake_tensorrt
from tests.runtime.host_cuda import HostCuda, host_cuda
from tests.runtime.plan_engines import LIMITS, write_plans
from tests.runtime.test_gpu_program import assert_same, texts

from ingot.manifest import Manifest
from ingot.network.config import ModelConfig
from ingot.network.weights import Scheme
from ingot.plugins.load import read_weights
from ingot.runtime.programs import plan_program
from ingot.runtime.programs.cpu import CpuProgram
from ingot.runtime.programs.gpu import GpuProgram

__all__ = ["host_cuda"]
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")
CPU = torch.device("cpu")


def load(engine: Path, manifest: Manifest, model: ModelConfig) -> GpuProgram:
    return plan_program.plan_program(fake_tensorrt, engine, manifest, model, CPU, memory_share=0.9)


def expected(engine: Path, model: ModelConfig) -> Any:
    weights = read_weights(load_file(engine / "packed" / "weights" / "model.safetensors"), model)
    return texts(CpuProgram(model, weights, LIMITS, dtype=torch.float32))


@pytest.mark.parametrize(
    ("target", "scheme", "family"),
    [
        ("tensorrt-rtx", Scheme.NONE, "mistral"),
        ("tensorrt-rtx", Scheme.INT8, "llama"),
        ("tensorrt", Scheme.NONE, "qwen3"),
        ("tensorrt", Scheme.INT4, "mistral"),
    ],
)
def test_tokens_are_the_cpu_targets(
    target: str, scheme: Scheme, family: str, host_cuda: HostCuda, tmp_path: Path
) -> None:
    """Ragged batches, prompts in chunks, a common prefix, sampling, log-probabilities of prompts."""
    model = config(family, layers=3 if scheme is Scheme.NONE else 2)
    manifest = write_plans(tmp_path, model, scheme, target=target)
    program = load(tmp_path, manifest, model)
    assert program.num_pages == LIMITS.num_pages
    assert host_cuda.error_modes == ["thread_local"] * 4, "buckets 1, 2 and 3; 3 once more to see what it takes"
    found = texts(program)
    assert host_cuda.replays >= 5
    program.close()
    assert_same(found, expected(tmp_path, model))
