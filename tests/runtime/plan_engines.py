"""Engines of plans that the fake runtime loads: made by the builder's own cutting and profiles, float or quantized."""

from __future__ import annotations

from pathlib import Path

from tests.builder.onnx.random_engine import write_engine
from tests.runtime.fake_tensorrt import fake_plan

from ingot.builder.onnx import EngineWeights, build_graph, weight_files, write_model
from ingot.builder.tensorrt.beside import keep_beside
from ingot.builder.tensorrt.profiles import rtx_profiles, tensorrt_profiles
from ingot.builder.tensorrt.rtx import in_order
from ingot.builder.tensorrt.segments import Piece, Segment, cut, pieces
from ingot.manifest import FORMAT_VERSION, Limits, Manifest
from ingot.network.config import ModelConfig
from ingot.network.weights import Scheme
from ingot.plans import PlanRecord, Plans

LIMITS = Limits(max_model_len=64, max_num_seqs=3, max_num_batched_tokens=16, page_size=4, num_pages=60)


def write_plans(
    folder: Path,
    model: ModelConfig,
    scheme: Scheme = Scheme.NONE,
    *,
    target: str = "tensorrt-rtx",
    kv_scales: bool = False,
) -> Manifest:
    """Fills folder with an engine of `target`; beside it, folder/packed keeps all weights, for comparison."""
    write_engine(folder / "packed", model, scheme, kv_scales=kv_scales)
    packed = folder / "packed" / "weights"
    graph = build_graph(
        EngineWeights(weight_files(packed)), model, dtype="float32", kv_dtype="float32", page_size=LIMITS.page_size,
        max_positions=LIMITS.max_model_len,
    )  # fmt: skip
    if target == "tensorrt-rtx":
        todo, profiles = pieces(cut(graph), share=scheme is Scheme.NONE), rtx_profiles(LIMITS)
    else:
        whole = Segment(index=0, model=graph, names={})
        todo, profiles = [Piece(name="model", model=graph, segments=(whole,))], tensorrt_profiles(LIMITS, model)
    (folder / "plan").mkdir()
    records = []
    for piece in todo:
        write_model(piece.model, folder / "onnx" / f"{piece.name}.onnx")
        plan = fake_plan(folder / "onnx" / f"{piece.name}.onnx", profiles)
        (folder / "plan" / f"{piece.name}.plan").write_bytes(plan)
        sizes = {"size": len(plan), "seconds": 0, "peak_rss": 0, "activation_bytes": 0}
        records.append(PlanRecord(plan=f"{piece.name}.plan", serves=len(piece.segments), linears={}, **sizes))
    plans = Plans(library="1.7", sm=[89, 120], segments=in_order(todo), plans=records)
    plans.write(folder)
    keep_beside([packed], {name for each in plans.segments for name in each.weights.values()}, folder / "weights")
    return manifest_of(target)


def manifest_of(target: str) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION, name="plans", target=target, sm=[89, 120], source={}, recipe={}, dtype="float32",
        kv_dtype="float32", limits=LIMITS, memory={}, quality=None, versions={}, files={}, rebuild="ingot build MODEL -o DIR",
        built_at="2026-01-02T03:04:05Z",
    )  # fmt: skip
