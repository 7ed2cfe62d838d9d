"""The tensorrt-rtx target: packed weights as an ONNX graph, cut at attention, one TensorRT-RTX plan per distinct segment."""

from __future__ import annotations

from pathlib import Path

from ingot.builder.onnx import EngineWeights, weight_files
from ingot.builder.targets import Compiled, CompileJob
from ingot.builder.tensorrt.beside import keep_beside
from ingot.builder.tensorrt.rtx import compile_rtx


def compile_engine(job: CompileJob, folder: Path) -> Compiled:
    """Fills folder/plan, and folder/weights with what is not inside the plans. Raises what compile_rtx raises."""
    plans = compile_rtx(
        EngineWeights(path for packed in job.weights for path in weight_files(packed)),
        job.config,
        folder,
        limits=job.limits,
        dtype=job.dtype,
        sms=job.sms,
        advance=job.advance,
    )
    inputs = {name for segment in plans.segments for name in segment.weights.values()}
    keep_beside(job.weights, inputs, folder / "weights")
    return Compiled(
        holds_weights=True,
        sm=plans.sm,
        versions={"tensorrt_rtx": plans.library},
        memory={"contexts": max(plan.activation_bytes for plan in plans.plans)},  # they run in turn and share one block
    )
