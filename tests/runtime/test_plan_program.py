"""Engines of plans as programs, on host memory: TensorRT's runtime is a fake that computes. Tokens are the cpu target's; what
was bound, captured and replayed is looked at besides."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from tests.builder.onnx.random_engine import config
from tests.runtime import fake_tensorrt
from tests.runtime.host_attention import host_attention
from tests.runtime.host_cuda import HostCuda, host_cuda
from tests.runtime.plan_engines import LIMITS, write_plans
from tests.runtime.test_gpu_program import assert_same, texts
from tests.tensorrt_classes import assert_same_signatures, modules

from ingot import tensorrt_library
from ingot.errors import DependencyError, EngineError
from ingot.manifest import Manifest
from ingot.network.config import ModelConfig
from ingot.network.weights import Scheme
from ingot.plugins.load import read_weights
from ingot.runtime.plan import Slice, StepPlan
from ingot.runtime.programs import load_program, plan_program
from ingot.runtime.programs.cpu import CpuProgram
from ingot.runtime.programs.gpu import GpuProgram
from ingot.runtime.programs.jit_cache import JitCache
from ingot.runtime.programs.tensors import read_tensors

__all__ = ["host_attention", "host_cuda"]
pytestmark = [
    pytest.mark.usefixtures("host_attention"),
    pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning"),
]
CPU = torch.device("cpu")
SMALL = config(layers=1)


def load(engine: Path, manifest: Manifest, model: ModelConfig) -> GpuProgram:
    return plan_program.plan_program(fake_tensorrt, engine, manifest, model, CPU, memory_share=0.9)


def expected(engine: Path, model: ModelConfig) -> Any:
    weights = read_weights(load_file(engine / "packed" / "weights" / "model.safetensors"), model)
    return texts(CpuProgram(model, weights, LIMITS, dtype=torch.float32))


@pytest.fixture(autouse=True)
def kernel_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_KERNELS", str(tmp_path / "kernels"))


@pytest.mark.parametrize(
    ("target", "scheme", "family"),
    [
        ("tensorrt-rtx", Scheme.NONE, "mistral"),
        ("tensorrt-rtx", Scheme.INT8, "llama"),
        ("tensorrt", Scheme.NONE, "qwen3"),
    ],
)
def test_tokens_are_the_cpu_targets(
    target: str, scheme: Scheme, family: str, host_cuda: HostCuda, tmp_path: Path
) -> None:
    """Ragged batches, prompts in chunks, a common prefix, sampling, log-probabilities of prompts."""
    model = config(family, layers=3 if (target, scheme) == ("tensorrt-rtx", Scheme.NONE) else 2)  # 3: one is shared
    manifest = write_plans(tmp_path, model, scheme, target=target)
    program = load(tmp_path, manifest, model)
    assert program.num_pages == LIMITS.num_pages
    assert host_cuda.error_modes == ["thread_local"] * 4, "buckets 1, 2 and 3; 3 once more to see what it takes"
    found = texts(program)
    assert host_cuda.replays >= 5
    program.close()
    assert_same(found, expected(tmp_path, model))


def contexts(program: GpuProgram) -> list[Any]:
    """Of every plan in turn: the one for decode steps, the one for the others."""
    model: Any = program._forward._model
    plans = [model._plan] if hasattr(model, "_plan") else list(model._plans.values())
    return [context for plan in plans for context in plan.engine.contexts]


def step(program: GpuProgram, number: int, slices: list[Slice]) -> list[int]:
    return program.launch(StepPlan(step=number, slices=slices)).result().tokens


@pytest.mark.parametrize("target", ["tensorrt-rtx", "tensorrt"])
def test_decode_steps_and_others_have_contexts_of_their_own(target: str, host_cuda: HostCuda, tmp_path: Path) -> None:
    manifest = write_plans(tmp_path, SMALL, target=target)
    program = load(tmp_path, manifest, SMALL)
    decode, mixed = contexts(program)[0::2], contexts(program)[1::2]
    if target == "tensorrt":
        assert [
            (each.profile, each.config.dynamic_shapes_kernel_specialization_strategy) for each in decode + mixed
        ] == [
            (0, None),
            (1, None),
        ]
    else:
        assert JitCache.of(manifest)._path.read_bytes() == b"kernels;"
        kinds = [each.config.dynamic_shapes_kernel_specialization_strategy for each in (decode[0], mixed[0])]
        assert kinds == ["eager", "lazy"]
        assert {each.profile for each in decode + mixed} == {0}
    assert len({each.memory for each in decode + mixed}) == 1, "they run in turn: one scratch block"
    assert [run["token_ids"] for run in mixed[0].runs] == [(16,), (3,)], "the largest steps, to see what they take"
    assert [run["token_ids"] for run in decode[0].runs] == [(3,), (3,), (3,), (3,), (2,), (2,), (1,), (1,)]
    before = len(decode[0].runs), len(mixed[0].runs)
    step(program, 0, [Slice(0, 0, 0, [5, 6, 7], [0], 1, True), Slice(1, 1, 0, [8], [1], 1, True)])
    step(program, 1, [Slice(0, 0, 3, [9], [0], 0, True), Slice(1, 1, 1, [9], [1], 0, False)])
    assert [run["token_ids"] for run in mixed[0].runs[before[1] :]] == [(4,)]
    assert [run["token_ids"] for run in decode[0].runs[before[0] :]] == [(2,)], "by the graph of the bucket"


@pytest.mark.parametrize("target", ["tensorrt-rtx", "tensorrt"])
def test_a_bucket_is_always_bound_to_the_same_memory(target: str, host_cuda: HostCuda, tmp_path: Path) -> None:
    """So that its graph stays valid. Inputs that the step itself makes come from the graph's pool."""
    program = load(tmp_path, write_plans(tmp_path, SMALL, target=target), SMALL)
    inner = contexts(program)[-2]
    own = [name for name in inner.addresses if name not in ("token_ids", "positions", "slots", "kv_lengths")]
    found = []
    for number in range(2):
        step(program, number, [Slice(0, 0, number, [5], [number], 1 - number, True)])
        found.append([inner.addresses[name] for name in own])
    assert found[0] == found[1]


def test_the_plugin_is_registered_only_while_a_plan_loads(host_cuda: HostCuda, tmp_path: Path) -> None:
    registry = fake_tensorrt.REGISTRY
    registry.calls.clear()
    manifest = write_plans(tmp_path, SMALL, target="tensorrt")
    load(tmp_path, manifest, SMALL).close()
    assert registry.calls == ["register ingot", "deregister"]
    assert not registry.creators
    (tmp_path / "plan" / "model.plan").write_bytes(b"something else")
    with pytest.raises(EngineError, match=r"model\.plan does not load; it was built by TensorRT 1\.7"):
        load(tmp_path, manifest, SMALL)
    assert not registry.creators
    registry.register_creator(SimpleNamespace(name="PagedAttention"), "ingot")
    with pytest.raises(EngineError, match="being loaded in this process"):
        load(tmp_path, manifest, SMALL)
    registry.creators.clear()


def test_a_plan_the_library_does_not_take_is_named(host_cuda: HostCuda, tmp_path: Path) -> None:
    manifest = write_plans(tmp_path, SMALL)
    (tmp_path / "plan" / "segment_1.plan").write_bytes(b"something else")
    with pytest.raises(EngineError, match=r"segment_1\.plan does not load; it was built by TensorRT-RTX 1\.7"):
        load(tmp_path, manifest, SMALL)


def test_a_step_past_the_profile_and_a_refusal_to_run_are_errors(
    host_cuda: HostCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = load(tmp_path, write_plans(tmp_path, SMALL), SMALL)
    with pytest.raises(
        EngineError, match=r"segment_0\.plan does not take token_ids of shape \(17,\); the largest is \(16,\)"
    ):
        step(program, 0, [Slice(0, 0, 0, [1] * 17, [0, 1, 2, 3, 4], 5, True)])
    monkeypatch.setattr(fake_tensorrt.IExecutionContext, "execute_async_v3", lambda self, stream_handle: False)
    with pytest.raises(EngineError, match=r"did not run segment_0\.plan"):
        step(program, 1, [Slice(0, 0, 0, [1, 2], [0], 1, True)])


def test_what_cannot_be_captured_runs_without_graphs(
    host_cuda: HostCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_tensorrt.IExecutionContext, "is_stream_capturable", lambda self, stream: False)
    program = load(tmp_path, write_plans(tmp_path, SMALL), SMALL)
    assert host_cuda.error_modes == []
    assert step(program, 0, [Slice(0, 0, 0, [5], [0], 1, True)])[0] >= 0
    assert [run["token_ids"] for run in contexts(program)[1].runs][-1] == (1,)


def test_scales_of_an_fp8_cache_come_from_beside_the_plans(tmp_path: Path) -> None:
    write_plans(tmp_path, SMALL, kv_scales=True)
    tensors = read_tensors(tmp_path / "weights")
    ((key, value),) = plan_program.kv_scales(tensors, SMALL, "float8_e4m3fn")
    assert (key, value) == pytest.approx((0.02, 0.03))
    assert plan_program.kv_scales(tensors, SMALL, "float16") == [(1.0, 1.0)]


def test_kernels_compiled_at_one_start_are_there_at_the_next(tmp_path: Path) -> None:
    kept = tmp_path / "kernels" / "of-an-engine.cache"

    def start() -> None:
        jit, configs = JitCache(kept), [fake_tensorrt.IRuntimeConfig() for _ in range(2)]
        for each in configs:
            jit.attach(each)
        assert configs[0].cache is configs[1].cache
        jit.save()

    start()
    assert kept.read_bytes() == b"kernels;"
    start()
    assert kept.read_bytes() == b"kernels;kernels;"
    kept.write_bytes(b"of another machine")
    start()
    assert kept.read_bytes() == b"kernels;", "compiled again"
    kept.unlink()
    kept.mkdir()
    start()  # cannot be written to, which costs the next start time and this one nothing


@pytest.mark.parametrize("target", ["tensorrt-rtx", "tensorrt"])
def test_a_machine_that_cannot_run_the_plans_is_told_so(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU, another GPU, no library, another version of it, another version of the plugin: each by name."""
    package = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}[target]
    versions = {package: "1.7", "ingot_paged_attention": "0"}
    manifest = msgspec.structs.replace(write_plans(tmp_path, SMALL, target=target), versions=versions)
    with pytest.raises(EngineError, match=r"for GPUs of SM 8\.9, 12\.0; PyTorch sees no NVIDIA GPU") as caught:
        load_program(tmp_path, manifest)
    assert "--target cpu" in caught.value.mend
    for name, answer in {
        "is_available": True,
        "get_device_capability": (9, 0),
        "get_device_name": "NVIDIA H200",
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    with pytest.raises(
        EngineError, match=r"NVIDIA H200 is SM 9\.0; the TensorRT.* plans of .* are for SM 8\.9, 12\.0"
    ) as caught:
        load_program(tmp_path, manifest)
    assert "--target cuda" in caught.value.mend
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DependencyError) as missing:
        load_program(tmp_path, manifest)
    assert "https://docs.nvidia.com/deeplearning/tensorrt" in missing.value.mend
    monkeypatch.setitem(sys.modules, package, fake_tensorrt)
    monkeypatch.setattr(tensorrt_library, "find_spec", lambda name: name)
    monkeypatch.setattr(fake_tensorrt, "__version__", "1.8", raising=False)
    with pytest.raises(EngineError, match=rf"compiled with {package} 1\.7; this machine has 1\.8"):
        load_program(tmp_path, manifest)
    if target == "tensorrt":
        monkeypatch.setattr(fake_tensorrt, "__version__", "1.7")
        with pytest.raises(EngineError, match="compiled with ingot_paged_attention 0; this machine has 1"):
            load_program(tmp_path, manifest)


CLASSES = ("IRuntimeCache", "Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig", "IPluginRegistry")
OWN = ("content", "shape", "view", "plugin", "device_memory", "call")  # the fake's alone
RTX_ALONE = {
    "IExecutionContext": ("is_stream_capturable",),
    "IRuntimeConfig": ("dynamic_shapes_kernel_specialization_strategy", "create_runtime_cache", "set_runtime_cache"),
    "IRuntimeCache": ("deserialize", "serialize"),
}


@pytest.mark.parametrize("library", modules())
@pytest.mark.parametrize("name", CLASSES)
def test_the_fake_has_the_real_signatures(name: str, library: str) -> None:
    lacking = () if library == "tensorrt_rtx" else RTX_ALONE.get(name, ())
    assert_same_signatures(
        getattr(fake_tensorrt, name), getattr(modules()[library], name, object), ignored=(*OWN, *lacking)
    )
    assert hasattr(modules()[library].ExecutionContextAllocationStrategy, "USER_MANAGED")


def test_strategies_are_tensorrt_rtxs() -> None:
    real = modules()["tensorrt_rtx"].DynamicShapesKernelSpecializationStrategy
    assert {"LAZY", "EAGER"} <= set(real.__members__)
