"""The tensorrt target: packed weights as an ONNX graph, built for the GPU at hand as one plan with attention inside it."""

from __future__ import annotations

from pathlib import Path

from ingot.builder.onnx import EngineWeights, weight_files
from ingot.builder.targets import Compiled, CompileJob, gpu_sm
from ingot.builder.tensorrt.support import check_tensorrt
from ingot.builder.tensorrt.whole import compile_whole
from ingot.network.weights import Scheme
from ingot.plugins.attention.tensorrt_plugin import MANIFEST_NAME, VERSION


def compile_engine(job: CompileJob, folder: Path) -> Compiled:
    """Fills folder/plan; nothing lies beside it. Raises what check_tensorrt and compile_whole raise."""
    sm = gpu_sm()
    check_tensorrt({Scheme.of(job.quant)}, job.sms, sm)
    assert sm is not None
    plans = compile_whole(
        EngineWeights(path for packed in job.weights for path in weight_files(packed)),
        job.config,
        folder,
        limits=job.limits,
        dtype=job.dtype,
        kv_dtype=job.kv_dtype,
        sm=sm,
        previous=job.previous,
        advance=job.advance,
    )
    return Compiled(
        holds_weights=True,
        sm=plans.sm,
        versions={"tensorrt": plans.library, MANIFEST_NAME: VERSION},
        memory={"contexts": plans.plans[0].activation_bytes},
    )
