"""The ONNX graph as TensorRT plans: cutting, building, reading what was fused. Importing it imports no TensorRT."""
