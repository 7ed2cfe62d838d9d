"""The tensorrt-rtx target: packed weights as an ONNX graph, cut at attention, one TensorRT-RTX plan per distinct segment."""

from __future__ import annotations

from pathlib import Path

from ingot.builder.onnx import EngineWeights, weight_files
from ingot.builder.targets import Compiled, CompileJob
from ingot.builder.tensorrt.rtx import compile_rtx


def compile_engine(job: CompileJob, folder: Path) -> Compiled:
    """Fills folder/plan. Raises what compile_rtx raises."""
    plans = compile_rtx(
        EngineWeights(weight_files(job.weights)),
        job.config,
        folder,
        limits=job.limits,
        dtype=job.dtype,
        sms=job.sms,
        advance=job.advance,
    )
    return Compiled(
        sm=plans.sm,
        versions={"tensorrt_rtx": plans.library},
        memory={"contexts": max(plan.activation_bytes for plan in plans.plans)},  # they run in turn and share one block
    )
