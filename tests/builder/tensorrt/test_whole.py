"""`--target tensorrt`: what is asked of the library, by a fake of its builder; and that the plan it gives is the engine's model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.builder.onnx.random_engine import config, write_engine
from tests.builder.tensorrt import fake_builder
from tests.runtime import fake_tensorrt
from tests.runtime.host_attention import host_attention
from tests.runtime.host_cuda import HostCuda, host_cuda
from tests.runtime.plan_engines import manifest_of
from tests.runtime.test_gpu_program import LIMITS, assert_same, texts
from tests.tensorrt_classes import assert_same_signatures, modules

from ingot import tensorrt_library
from ingot.builder.build import build_engine
from ingot.builder.onnx import EngineWeights, build_graph, weight_files
from ingot.builder.recipe import Recipe
from ingot.builder.targets import CompileJob
from ingot.builder.targets import tensorrt as target
from ingot.builder.tensorrt import process, support, whole
from ingot.errors import DependencyError, EngineError, RecipeError
from ingot.network.weights import Scheme
from ingot.plans import Plans, read_plans
from ingot.plugins.load import read_weights
from ingot.runtime.programs.cpu import CpuProgram
from ingot.runtime.programs.plan_program import plan_program

__all__ = ["host_attention", "host_cuda"]
MODEL = config("qwen2")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "WORKER", "tests.builder.tensorrt.fake_builder")


def compiled(
    folder: Path, *, kv_scales: bool = False, kv_dtype: str = "float32", previous: Path | None = None
) -> Plans:
    if not (folder / "packed").exists():
        write_engine(folder / "packed", MODEL, kv_scales=kv_scales)
    return whole.compile_whole(
        EngineWeights(weight_files(folder / "packed" / "weights")), MODEL, folder, limits=LIMITS, dtype="float32",
        kv_dtype=kv_dtype, sm=90, device="cpu", previous=previous,
    )  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "WORKER", "tests.builder.tensorrt.fake_builder")
        folder = tmp_path_factory.mktemp("built")
        compiled(folder)
    return folder


def said(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "plan" / "model.log").read_text().splitlines()[-1])
    return found


@pytest.mark.usefixtures("host_attention")
@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")
def test_the_plan_is_the_model(host_cuda: HostCuda, built: Path) -> None:
    """Built and loaded: its tokens are the cpu target's."""
    plans = read_plans(built)
    assert (plans.product, plans.library, plans.sm) == ("TensorRT 11", "11.4.0", [90])
    program = plan_program(fake_tensorrt, built, manifest_of("tensorrt"), MODEL, torch.device("cpu"), memory_share=0.9)
    weights = read_weights(load_file(built / "packed" / "weights" / "model.safetensors"), MODEL)
    assert_same(texts(program), texts(CpuProgram(MODEL, weights, LIMITS, dtype=torch.float32)))


def test_what_the_library_is_asked_for(built: Path) -> None:
    assert said(built) == {
        "ALIASED_PLUGIN_IO_10_03": True,
        "WORKSPACE": 4 << 30,
        "known timings": "",
        "aux streams": 0,
        "verbosity": "DETAILED",
    }
    engine = fake_tensorrt.Runtime(fake_tensorrt.Logger(2)).deserialize_cuda_engine
    fake_tensorrt.REGISTRY.creators["ingot::PagedAttention"] = AnyCreator()
    try:
        loaded = engine((built / "plan" / "model.plan").read_bytes())
    finally:
        fake_tensorrt.REGISTRY.creators.clear()
    assert loaded is not None
    decode, mixed = ({name: loaded.get_tensor_profile_shape(name, i) for name in loaded.inputs} for i in (0, 1))
    assert decode["token_ids"] == [(1,), (3,), (3,)]
    assert mixed["token_ids"] == [(1,), (16,), (16,)], "picked for steps full of prompts"
    assert decode["query_starts"] == mixed["query_starts"] == [(2,), (4,), (4,)]
    assert decode["page_table"] == [(1, 16), (3, 16), (3, 16)], "as wide as the longest sequence"
    assert decode["kv_cache.1"][2] == (2, (2**31 - 1) // (2 * 2 * 4 * 32), 2, 4, 32), "no tensor of 2 ** 31 elements"
    assert decode["logit_rows"] == mixed["logit_rows"]


class AnyCreator:
    name = "PagedAttention"

    def create_plugin(self, name: str, given: Any, phase: Any) -> Any:
        return self

    def attach_to_context(self, context: Any) -> Any:
        return self


@pytest.mark.usefixtures("library")
def test_timings_of_the_engine_that_is_replaced_are_used(built: Path, tmp_path: Path) -> None:
    assert (built / whole.TIMINGS).read_bytes() == b"timed;"
    compiled(tmp_path, previous=built)
    assert said(tmp_path)["known timings"] == "timed;"
    assert (tmp_path / whole.TIMINGS).read_bytes() == b"timed;timed;"


def test_kv_scales_that_lie_apart_reach_the_graph(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are attributes of the plugin's nodes, so the compiler must be given their folder too."""
    write_engine(tmp_path / "all", MODEL, kv_scales=True)
    tensors = load_file(tmp_path / "all" / "weights" / "model.safetensors")
    for folder, wanted in (("weights", False), ("scales", True)):
        (tmp_path / folder).mkdir()
        part = {name: tensor for name, tensor in tensors.items() if name.endswith("kv_scale") == wanted}
        save_file(part, tmp_path / folder / "model.safetensors")
    scales: list[float] = []

    def compile_whole(weights: EngineWeights, *given: Any, **named: Any) -> Plans:
        graph = build_graph(weights, MODEL, dtype="float16", kv_dtype=named["kv_dtype"], page_size=4, max_positions=64)
        scales.extend(node.attributes["v_scale"].as_float() for node in graph.graph if node.op_type == "PagedAttention")
        return read_plans(built)

    for name, fake in {
        "gpu_sm": lambda: 90,
        "check_tensorrt": lambda *given: None,
        "compile_whole": compile_whole,
    }.items():
        monkeypatch.setattr(target, name, fake)
    job = CompileJob(
        config=MODEL, weights=(tmp_path / "weights", tmp_path / "scales"), limits=LIMITS, dtype="float16", kv_dtype="float8_e4m3fn",
        quant="none",
    )  # fmt: skip
    report = target.compile_engine(job, tmp_path / "out")
    assert scales == pytest.approx([0.03, 0.03])
    assert report.holds_weights
    assert report.versions == {"tensorrt": "11.4.0", "ingot_paged_attention": "1"}


def test_a_library_that_refuses_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "WORKER", "tests.builder.tensorrt.aborting_worker")
    with pytest.raises(EngineError, match="TensorRT 11 at model died with exit code -6"):
        compiled(tmp_path)


@pytest.mark.parametrize(
    ("schemes", "sms", "here", "match"),
    [
        ({Scheme.NONE}, [], None, "PyTorch sees no NVIDIA GPU here"),
        ({Scheme.NONE}, [89], 90, r"TensorRT builds for the GPU it runs on, SM 9\.0; --sm names 8\.9"),
        ({Scheme.FP8}, [], 86, r"fp8 needs SM 8\.9 or newer in TensorRT; this GPU is SM 8\.6"),
        ({Scheme.NVFP4}, [90], 90, r"nvfp4 needs SM 10\.0 or newer in TensorRT"),
        ({Scheme.NONE}, [], 75, r"need SM 8\.0 or newer"),
    ],
)
def test_what_a_gpu_lacks_is_refused_before_building(
    schemes: set[Scheme], sms: list[int], here: int | None, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_library, "find_spec", lambda name: name)
    with pytest.raises((RecipeError, DependencyError), match=match):
        support.check_tensorrt(schemes, sms, here)
    support.check_tensorrt({Scheme.FP8, Scheme.INT4}, [90], 90)


def test_without_the_library_a_build_says_what_to_install(llama: Path, tmp_path: Path) -> None:
    recipe = Recipe(model=str(llama), out=str(tmp_path / "engine"), target="tensorrt")
    with pytest.raises(DependencyError, match="needs TensorRT 11: the package tensorrt is not installed") as caught:
        build_engine(recipe, cache=tmp_path / "cache")
    assert "pip install 'ingot[tensorrt]'" in caught.value.mend
    assert (
        "https://docs.nvidia.com/deeplearning/tensorrt/11.4.0/installing-tensorrt/install-pip.html" in caught.value.mend
    )
    assert not (tmp_path / "cache").exists()


BUILDER = (
    "Builder",
    "IBuilderConfig",
    "INetworkDefinition",
    "ITensor",
    "IOptimizationProfile",
    "ITimingCache",
    "OnnxParser",
)


@pytest.mark.parametrize("library", [name for name, module in modules().items() if hasattr(module, "Builder")])
@pytest.mark.parametrize("name", BUILDER)
def test_the_fake_has_the_real_signatures(name: str, library: str) -> None:
    assert_same_signatures(getattr(fake_builder, name), getattr(modules()[library], name))
    assert hasattr(modules()[library].NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
