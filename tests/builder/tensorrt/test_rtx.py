"""Real plans by TensorRT-RTX, which builds without a GPU: every scheme it has, what it lacks refused by us and by it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.builder.onnx.random_engine import config, write_engine

from ingot.builder.onnx import EngineWeights, build_graph, weight_files
from ingot.builder.tensorrt import process
from ingot.builder.tensorrt.log import layers
from ingot.builder.tensorrt.process import Bounds, build_piece
from ingot.builder.tensorrt.profiles import rtx_profiles
from ingot.builder.tensorrt.rtx import compile_rtx
from ingot.builder.tensorrt.segments import Piece, cut, pieces
from ingot.builder.tensorrt.worker import PlanOrder
from ingot.errors import CapacityError, EngineError, RecipeError
from ingot.manifest import Limits
from ingot.network.config import ModelConfig
from ingot.network.weights import Scheme
from ingot.plans import Plans, read_plans

LIMITS = Limits(max_model_len=64, max_num_seqs=4, max_num_batched_tokens=32, page_size=4)
MODEL = replace(config("qwen3", layers=1), hidden_size=256, num_heads=8, num_kv_heads=4)


def compiled(
    folder: Path,
    scheme: Scheme,
    sms: list[int],
    *,
    model: ModelConfig = MODEL,
    dtype: str = "float16",
    static: bool = False,
) -> Plans:
    write_engine(folder, model, scheme, dtype=getattr(torch, dtype), static_inputs=static)
    weights = EngineWeights(weight_files(folder / "weights"))
    return compile_rtx(weights, model, folder, limits=LIMITS, dtype=dtype, sms=sms)


def order(sm: int) -> PlanOrder:
    return PlanOrder(title="TensorRT-RTX", package="tensorrt_rtx", profiles=list(rtx_profiles(LIMITS)), sms=[sm])


def one_piece(folder: Path, scheme: Scheme) -> Piece:
    write_engine(folder, MODEL, scheme, dtype=torch.float16)
    (folder / "plan").mkdir()
    weights = EngineWeights(weight_files(folder / "weights"))
    half = "float16"
    graph = build_graph(weights, MODEL, dtype=half, kv_dtype=half, page_size=4, max_positions=64, fp4_inputs=True)
    return pieces(cut(graph), share=False)[0]


@pytest.mark.parametrize(
    ("scheme", "sms", "dtype", "static"),
    [
        (Scheme.FP8, [89, 120], "bfloat16", True),
        (Scheme.INT8, [80, 86], "float16", True),
        (Scheme.INT4, [80, 89, 120], "bfloat16", False),
        (Scheme.NVFP4, [120], "bfloat16", True),
    ],
)
def test_every_quantized_product_is_fused(
    scheme: Scheme, sms: list[int], dtype: str, static: bool, tmp_path: Path
) -> None:
    plans = compiled(tmp_path, scheme, sms, dtype=dtype, static=static)
    linears = {name: types for plan in plans.plans for name, types in plan.linears.items()}
    assert linears == {f"layers.0.{kind}": scheme for kind in ("qkv", "o", "gate_up", "down")}
    assert [segment.plan for segment in plans.segments] == ["segment_0.plan", "segment_1.plan"]
    assert read_plans(tmp_path) == plans
    log = (tmp_path / "plan" / "segment_1.log").read_text()
    assert f"Number of target compute capabilities: {len(sms)}" in log or len(sms) == 1
    assert not list(tmp_path.glob(".onnx-*"))


def test_float_layers_share_one_plan_whose_weights_are_inputs(tmp_path: Path) -> None:
    plans = compiled(tmp_path, Scheme.NONE, [80, 89, 120], model=replace(MODEL, num_layers=4, windows=(0,) * 4))
    assert [segment.plan for segment in plans.segments] == [f"segment_{i}.plan" for i in (0, 1, 1, 1, 4)]
    assert plans.segments[2].weights["down.weight"] == "layers.1.down.weight"
    assert plans.segments[2].weights["q_norm.weight"] == "layers.2.q_norm.weight"
    assert [plan.serves for plan in plans.plans] == [1, 3, 1]
    kinds = {layer.kind for layer in layers((tmp_path / "plan" / "segment_1.log").read_text())}
    assert {"kgen"} < kinds, "norms and activations are fused kernels"


def test_a_product_that_is_not_fused_fails_the_build_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library has no fused INT4 kernel where K is a single group; such a plan would be slower than fp16's."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(EngineError, match=r"layers\.0\.qkv \(int4\) reads Float/Half") as caught:
        compiled(tmp_path, Scheme.INT4, [89], model=config())
    (log,) = tmp_path.glob("ingot-segment_0-*.log")
    assert str(log) in caught.value.mend
    assert "Layers:" in log.read_text()


@pytest.mark.parametrize(
    ("scheme", "sms", "match"),
    [
        (Scheme.FP8, [80, 89], r"fp8 needs SM 8\.9 or newer; --sm names 8\.0"),
        (Scheme.NVFP4, [89, 120], r"nvfp4 needs SM 12\.0 or newer; --sm names 8\.9"),
        (Scheme.NONE, [90], r"does not build for SM 9\.0"),
        (Scheme.NONE, [], "No GPU is named"),
    ],
)
def test_what_a_gpu_lacks_is_refused_before_building(
    scheme: Scheme, sms: list[int], match: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=match):
        compiled(tmp_path, scheme, sms)
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize(("scheme", "sm", "word"), [(Scheme.FP8, 80, "fp8_e4m3"), (Scheme.NVFP4, 89, "fp4_e2m1")])
def test_the_library_refuses_the_same(scheme: Scheme, sm: int, word: str, tmp_path: Path) -> None:
    piece = one_piece(tmp_path, scheme)
    with pytest.raises(EngineError, match=f"TensorRT-RTX at segment_0 refused: .*sm{sm}.*{word}"):
        build_piece(piece, tmp_path, order(sm), Bounds())


@pytest.mark.parametrize(
    ("bounds", "match"), [(Bounds(seconds=0.1), r"within 0\.1 s"), (Bounds(memory=1 << 20), "of the 1 MiB it may")]
)
def test_a_worker_past_its_bounds_is_ended(bounds: Bounds, match: str, tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(CapacityError, match=match):
        build_piece(one_piece(tmp_path, Scheme.FP8), tmp_path, order(89), bounds)
    assert time.monotonic() - start < 30
    assert not list(tmp_path.glob(".onnx-*"))


def test_an_abort_inside_the_library_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "WORKER", "tests.builder.tensorrt.aborting_worker")
    with pytest.raises(EngineError, match="at segment_0 died with exit code -6"):
        build_piece(one_piece(tmp_path, Scheme.FP8), tmp_path, order(89), Bounds())
