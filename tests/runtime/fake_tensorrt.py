"""TensorRT's runtime API in place of a GPU: records every call, and computes a plan by its ONNX in the reference evaluator.

A "plan" here is the path of an ONNX file. Addresses are host addresses, so what is bound wrongly computes wrongly.
"""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

MOST = {"tokens": 16, "rows": 2}  # of every plan's profile
DTYPES = {onnx.TensorProto.FLOAT: ("FLOAT", np.float32), onnx.TensorProto.INT32: ("INT32", np.int32)}


class Logger:
    WARNING = 2

    def __init__(self, severity: int) -> None:
        self.severity = severity


class Runtime:
    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        return ICudaEngine(Path(serialized_engine.decode())) if serialized_engine.startswith(b"/") else None


class ICudaEngine:
    device_memory_size_v2 = 64

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path).graph
        self.run = ReferenceEvaluator(onnx.load(path))
        self.inputs = {value.name: value.type.tensor_type for value in graph.input}
        self.outputs = {value.name: value.type.tensor_type for value in graph.output}

    def create_execution_context(self, strategy: Any) -> IExecutionContext:
        return IExecutionContext(self)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        return [self.shape(name, dict.fromkeys(MOST, 1)), self.shape(name, MOST), self.shape(name, MOST)]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=DTYPES[(self.inputs | self.outputs)[name].elem_type][0])

    def shape(self, name: str, sizes: dict[str, int]) -> tuple[int, ...]:
        dims = (self.inputs | self.outputs)[name].shape.dim
        return tuple(sizes[dim.dim_param] if dim.dim_param else dim.dim_value for dim in dims)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.memory: tuple[int, int] | None = None
        self.streams: list[int] = []

    def set_device_memory(self, memory: int, size: int) -> None:
        self.memory = (memory, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name in self.engine.inputs
        assert shape <= self.engine.get_tensor_profile_shape(name, 0)[2]
        assert min(shape) > 0
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        sizes: dict[str, int] = {}
        for given, shape in self.shapes.items():
            dims = self.engine.inputs[given].shape.dim
            sizes |= {dim.dim_param: size for dim, size in zip(dims, shape, strict=True) if dim.dim_param}
        return self.engine.shape(name, sizes)

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self.memory
        assert set(self.addresses) == set(self.engine.inputs) | set(self.engine.outputs)
        read = [self.addresses[name] for name in self.engine.inputs]
        assert not set(read) & {self.addresses[name] for name in self.engine.outputs}, "outputs overwrite inputs"
        self.streams.append(stream_handle)
        feeds = {name: self.view(name).copy() for name in self.engine.inputs}
        for name, value in zip(self.engine.outputs, self.engine.run.run(None, feeds), strict=True):
            self.view(name)[...] = value
        return True

    def view(self, name: str) -> Any:
        kind = DTYPES[(self.engine.inputs | self.engine.outputs)[name].elem_type][1]
        shape = self.get_tensor_shape(name)
        memory = (ctypes.c_uint8 * (math.prod(shape) * 4)).from_address(self.addresses[name])
        return np.frombuffer(memoryview(memory), np.dtype(kind)).reshape(shape)


class ExecutionContextAllocationStrategy:
    USER_MANAGED = "user managed"
