"""The decoder as an ONNX graph: explicit quantization, one PagedAttention node per layer. Knows nothing of any runtime."""

from ingot.builder.onnx.export import build_graph, write_model
from ingot.builder.onnx.weights import EngineWeights, weight_files

__all__ = ["EngineWeights", "build_graph", "weight_files", "write_model"]
