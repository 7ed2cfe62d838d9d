"""Target tensorrt-rtx: one plan per distinct segment of the graph, each built in a bounded subprocess.

Knows what TensorRT-RTX can build for which GPU; the graph is builder.onnx's, the cutting segments.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ingot.builder.onnx import EngineWeights, build_graph
from ingot.builder.tensorrt.log import activation_bytes, computes_in, layers
from ingot.builder.tensorrt.process import Bounds, build_piece, kept
from ingot.builder.tensorrt.profiles import rtx_profiles
from ingot.builder.tensorrt.segments import Piece, cut, pieces
from ingot.builder.tensorrt.support import check_rtx
from ingot.builder.tensorrt.worker import PlanOrder, PlanResult
from ingot.errors import EngineError
from ingot.manifest import Limits
from ingot.network.config import ModelConfig
from ingot.network.weights import LINEARS, Scheme
from ingot.plans import PlanRecord, Plans, Segment
from ingot.tensorrt_library import LIBRARIES

Progress = Callable[[int], None]


def compile_rtx(
    weights: EngineWeights,
    config: ModelConfig,
    folder: Path,
    *,
    limits: Limits,
    dtype: str,
    sms: Sequence[int],
    bounds: Bounds | None = None,
    advance: Progress = lambda segments: None,
) -> Plans:
    """Writes folder/plan/*.plan, their build logs and segments.json; `advance` hears of every finished segment.

    Raises RecipeError for a scheme that an SM does not have, DependencyError without the library, CapacityError past
    the bounds, EngineError where the library fails or a quantized GEMM was not fused.
    """
    schemes = {name: weights.scheme(name) for name in linear_names(config)}
    check_rtx(set(schemes.values()), sms)
    graph = build_graph(
        weights,
        config,
        dtype=dtype,
        kv_dtype=dtype,  # the cache stays outside the plans
        page_size=limits.page_size,
        max_positions=limits.max_model_len,
        fp4_inputs=True,
    )
    todo = pieces(cut(graph), share=set(schemes.values()) == {Scheme.NONE})
    (folder / "plan").mkdir(parents=True, exist_ok=True)
    library = LIBRARIES["tensorrt-rtx"]
    order = PlanOrder(
        title=library.title, package=library.package, profiles=list(rtx_profiles(limits)), sms=sorted(sms)
    )
    records, version = [], ""
    for piece in todo:
        result = build_piece(piece, folder, order, bounds or Bounds())
        records.append(record(piece, folder, result, schemes))
        version = result.library
        advance(len(piece.segments))
    plans = Plans(library=version, sm=sorted(sms), segments=in_order(todo), plans=records)
    plans.write(folder)
    return plans


def linear_names(config: ModelConfig) -> list[str]:
    return [f"layers.{layer}.{kind}" for layer in range(config.num_layers) for kind in LINEARS]


def record(piece: Piece, folder: Path, result: PlanResult, schemes: dict[str, Scheme]) -> PlanRecord:
    """Raises EngineError naming the quantized linears whose GEMM is not what the scheme says."""
    path = folder / "plan" / f"{piece.name}.log"
    log = path.read_text(errors="replace")
    found = list(layers(log))
    linears = {
        name: computes_in(found, f"{inside.removesuffix('.weight')}/MatMul", schemes[name])
        for segment in piece.segments
        for inside, source in segment.names.items()
        if (name := source.removesuffix(".weight")) in schemes
    }
    unfused = {name: types for name, types in linears.items() if types not in (str(schemes[name]), "float")}
    if unfused:
        listed = ", ".join(f"{name} ({schemes[name]}) reads {types}" for name, types in sorted(unfused.items()))
        raise EngineError(
            f"TensorRT-RTX did not fuse these quantized products: {listed}.",
            mend=f"Use another --quant, and report the log: {kept(path)}.",
        )
    return PlanRecord(
        plan=f"{piece.name}.plan",
        serves=len(piece.segments),
        size=(folder / "plan" / f"{piece.name}.plan").stat().st_size,
        seconds=round(result.seconds, 3),
        peak_rss=result.peak_rss,
        activation_bytes=activation_bytes(log),
        linears=linears,
    )


def in_order(todo: Sequence[Piece]) -> list[Segment]:
    found = {
        segment.index: Segment(
            plan=f"{piece.name}.plan",
            inputs=segment.inputs,
            outputs=segment.outputs,
            weights={name: segment.names[name] for name in piece.weights},
        )
        for piece in todo
        for segment in piece.segments
    }
    return [found[index] for index in sorted(found)]
