"""Engine weights in, one ONNX model out. Knows files and memory; the graph itself is written by OnnxOps."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from ingot.builder.onnx.graph import FLOATS
from ingot.builder.onnx.ops import OnnxOps
from ingot.builder.onnx.weights import EngineWeights
from ingot.errors import RecipeError
from ingot.network.config import ModelConfig
from ingot.network.decoder import decoder

KV_DTYPES = FLOATS | {"float8_e4m3fn": ir.DataType.FLOAT8E4M3FN}


def build_graph(
    weights: EngineWeights,
    config: ModelConfig,
    *,
    dtype: str,
    kv_dtype: str,
    page_size: int,
    max_positions: int,
    fp4_inputs: bool = False,
) -> ir.Model:
    """The decoder as an ONNX model with one PagedAttention node per layer; no weight is read but the scales.

    dtype: of activations, one of FLOATS. kv_dtype: one of KV_DTYPES. max_positions: longest sequence, prompt and output.
    fp4_inputs: whether NVFP4 linears round their inputs too, by TensorRT's own operator. Raises RecipeError for another
    dtype and EngineError for missing weights.
    """
    for given, allowed in ((dtype, FLOATS), (kv_dtype, KV_DTYPES)):
        if given not in allowed:
            raise RecipeError(f"{given} cannot be exported to ONNX.", mend=f"Use one of {', '.join(allowed)}.")
    ops = OnnxOps(
        config,
        weights,
        FLOATS[dtype],
        kv_dtype=KV_DTYPES[kv_dtype],
        page_size=page_size,
        max_positions=max_positions,
        fp4_inputs=fp4_inputs,
    )
    decoder(ops, config, ops.batch())
    return ops.graph.model(config.family)


def write_model(model: ir.Model, path: Path) -> None:
    """Writes `path` and, beside it, `path`.data with the weights, streamed: one converted tensor in memory at most."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ir.save(model, path, external_data=f"{path.name}.data")
