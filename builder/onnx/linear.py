"""A linear layer of every quantization scheme as ONNX nodes with explicit quantize/dequantize pairs.

Scales per row and per token cannot stand inside a Q/DQ pair: TensorRT takes them out of the product, which then overflows
fp16. So the pair carries a power of two, exact in every dtype and folded into the GEMM's alpha, and what is left of the
scales multiplies the product in float32, where TensorRT fuses it into whatever follows.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ingot.builder.onnx.graph import TRT_DOMAIN, GraphWriter
from ingot.builder.onnx.weights import EngineWeights
from ingot.network.weights import INT4_GROUP, NVFP4_GROUP, Scheme

F32 = ir.DataType.FLOAT
Floats = npt.NDArray[np.float32]
TOP = {Scheme.FP8: 448.0, Scheme.INT8: 127.0}  # largest magnitude of e4m3 and of symmetric int8
E2M1_TOP, E4M3_TOP = 6.0, 448.0
LEAST_SCALE = 1e-12  # of a row of zeros
HEADROOM = 2.0**-8  # of per-token inputs: e4m3's 448 becomes 1.75, so that fp16 products stay near the true ones


def linear(graph: GraphWriter, weights: EngineWeights, name: str, x: ir.Value, *, fp4_inputs: bool) -> ir.Value:
    """(T, in) -> (T, out) in the graph's dtype. `fp4_inputs`: NVFP4 also rounds its inputs (SM 12.0), else weights only."""
    if f"{name}.pre_scale" in weights:
        x = graph.op("Mul", x, graph.floats(f"{name}.pre_scale", weights[f"{name}.pre_scale"]))
    match weights.scheme(name):
        case Scheme.NONE:
            y = product(graph, x, graph.floats(f"{name}.weight", weights[f"{name}.weight"]))
        case Scheme.INT4:
            y = product(graph, x, int4_weight(graph, weights, name))
        case Scheme.NVFP4:
            return nvfp4(graph, weights, name, x, fp4_inputs=fp4_inputs)
        case _:
            return eight_bit(graph, weights, name, x)
    if f"{name}.bias" in weights:
        y = graph.op("Add", y, graph.floats(f"{name}.bias", weights[f"{name}.bias"]))
    return y


def product(graph: GraphWriter, x: ir.Value, weight: ir.Value) -> ir.Value:
    return graph.op("MatMul", x, graph.op("Transpose", weight, perm=[1, 0]))


def eight_bit(graph: GraphWriter, weights: EngineWeights, name: str, x: ir.Value) -> ir.Value:
    """FP8 or INT8, weights per row, inputs by their static scale or else per token."""
    stored = weights[f"{name}.weight"]
    rows = weights.floats(f"{name}.weight_scale")
    step = power_of_two(float(rows.max()))
    weight = graph.op("DequantizeLinear", graph.stored(f"{name}.weight", stored), graph.constant(step))
    zero = graph.constant(0, stored.dtype)
    x, tokens = graph.cast(x, F32), None
    if f"{name}.input_scale" in weights:
        rest = float(weights.floats(f"{name}.input_scale").item())
        x_step = power_of_two(rest)
        x = graph.op("QuantizeLinear", x, graph.constant(rest, F32), zero)
    else:
        tokens = graph.op("Div", row_amax(graph, x), graph.constant(TOP[weights.scheme(name)], F32))
        x_step, rest = HEADROOM, 1.0
        x = graph.op("QuantizeLinear", graph.op("Div", x, tokens), graph.constant(1.0, F32), zero)
    y = product(graph, graph.op("DequantizeLinear", x, graph.constant(x_step)), weight)
    return rescaled(graph, weights, name, y, rows / step * (rest / x_step), tokens)


def int4_weight(graph: GraphWriter, weights: EngineWeights, name: str) -> ir.Value:
    """The engine's packing, low nibble first along K, is ONNX's own, so the bytes are used as they lie."""
    stored, scale = weights[f"{name}.weight"], weights[f"{name}.weight_scale"]
    shape = (stored.shape[0], 2 * stored.shape[1])
    data = graph.stored(f"{name}.weight", stored, ir.DataType.INT4, shape)
    return graph.op(
        "DequantizeLinear", data, graph.floats(f"{name}.weight_scale", scale), axis=1, block_size=INT4_GROUP
    )


def nvfp4(graph: GraphWriter, weights: EngineWeights, name: str, x: ir.Value, *, fp4_inputs: bool) -> ir.Value:
    """E2M1 in blocks of 16 under e4m3 scales, those under one float32 (NVIDIA's NVFP4), here the largest of the rows'."""
    stored = weights[f"{name}.weight"]
    rows = weights.floats(f"{name}.weight_scale_2").reshape(-1)
    largest = max(float(rows.max()), LEAST_SCALE)
    shape = (stored.shape[0], 2 * stored.shape[1])
    data = graph.stored(f"{name}.weight", stored, ir.DataType.FLOAT4E2M1, shape)
    blocks = graph.stored(f"{name}.weight_scale", weights[f"{name}.weight_scale"])
    blocks = graph.cast(graph.op("DequantizeLinear", blocks, graph.constant(largest, F32)), graph.dtype)
    weight = graph.op("DequantizeLinear", data, blocks, axis=1, block_size=NVFP4_GROUP)
    tokens = None
    if fp4_inputs:
        x, tokens = nvfp4_input(graph, weights, name, x)
    return rescaled(graph, weights, name, product(graph, x, weight), rows / largest, tokens)


def nvfp4_input(graph: GraphWriter, weights: EngineWeights, name: str, x: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """Rounds x to E2M1 by TensorRT's own operator; its second-level scale is static, else 1 with x normalized per token."""
    tokens = None
    if f"{name}.input_scale" in weights:
        second = graph.constant(weights.floats(f"{name}.input_scale").reshape(()), F32)
    else:
        wide = graph.cast(x, F32)
        tokens = row_amax(graph, wide)
        x = graph.cast(graph.op("Div", wide, tokens), graph.dtype)
        second = graph.constant(1 / (E2M1_TOP * E4M3_TOP), F32)
    data, scales = graph.ops(
        "TRT_FP4DynamicQuantize",
        x,
        second,
        outputs=2,
        domain=TRT_DOMAIN,
        axis=-1,
        block_size=NVFP4_GROUP,
        scale_type=int(ir.DataType.FLOAT8E4M3FN),
    )
    scales = graph.cast(graph.op("DequantizeLinear", scales, second), graph.dtype)
    return graph.op("DequantizeLinear", data, scales, axis=-1, block_size=NVFP4_GROUP), tokens


def rescaled(
    graph: GraphWriter, weights: EngineWeights, name: str, y: ir.Value, rows: Floats, tokens: ir.Value | None
) -> ir.Value:
    """y * tokens (T, 1) * rows (N,) + bias, in float32."""
    y = graph.cast(y, F32)
    if tokens is not None:
        y = graph.op("Mul", y, tokens)
    y = graph.op("Mul", y, graph.array(f"{name}.rescale", rows, F32))
    if f"{name}.bias" in weights:
        y = graph.op("Add", y, graph.array(f"{name}.bias", weights.floats(f"{name}.bias"), F32))
    return graph.cast(y, graph.dtype)


def row_amax(graph: GraphWriter, x: ir.Value) -> ir.Value:
    """(T, K) -> (T, 1), kept off zero."""
    amax = graph.op("ReduceMax", graph.op("Abs", x), graph.integers(-1), keepdims=1)
    return graph.op("Max", amax, graph.constant(LEAST_SCALE, F32))


def power_of_two(scale: float) -> float:
    """The power of two at or above, no smaller than fp16 holds."""
    return 2.0 ** max(math.ceil(math.log2(max(scale, LEAST_SCALE))), -24)
