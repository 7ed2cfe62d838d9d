"""An ONNX graph while it is being written: nodes with names that mean something, constants kept once, lazy initializers.

Knows onnx_ir; knows nothing of what the graph computes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir import tape

from ingot.builder.onnx.weights import ConvertedTensor, Stored

OPSET = 23
IR_VERSION = 11
INGOT_DOMAIN = "ingot"
TRT_DOMAIN = "trt"
FLOATS = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}


class GraphWriter:
    """Appends nodes in topological order. `dtype` is that of the activations.

    A node is named after the scope it was written in, so that a runtime's log speaks of layers.3.qkv/MatMul.
    """

    def __init__(self, dtype: ir.DataType) -> None:
        self.dtype = dtype
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self.initializers: dict[str, ir.Value] = {}
        self._tape = tape.Tape()
        self._scope = "graph"
        self._names: Counter[str] = Counter()
        self._constants: dict[tuple[ir.DataType, tuple[int, ...], bytes], ir.Value] = {}
        self._values = itertools.count()

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        outer, self._scope = self._scope, name
        try:
            yield
        finally:
            self._scope = outer

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(list(shape)))
        self.inputs.append(value)
        return value

    def op(self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        return self.ops(op_type, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: ir.Value | None, outputs: int, domain: str = "", **attributes: Any
    ) -> Sequence[ir.Value]:
        name = f"{self._scope}/{op_type}"
        self._names[name] += 1
        if self._names[name] > 1:
            name = f"{name}_{self._names[name]}"
        values = self._tape.op_multi_out(op_type, inputs, attributes, num_outputs=outputs, domain=domain, name=name)
        for value in values:
            value.name = f"v{next(self._values)}"
        return values

    def typed(
        self, value: ir.Value, name: str, shape: Sequence[int | str], dtype: ir.DataType | None = None
    ) -> ir.Value:
        """Writes down what a value is, where a cut, a plugin or a graph output needs to know."""
        value.name, value.type, value.shape = name, ir.TensorType(dtype or self.dtype), ir.Shape(list(shape))
        return value

    def constant(self, array: npt.ArrayLike, dtype: ir.DataType | None = None) -> ir.Value:
        """A small constant of the activations' dtype unless told otherwise; equal ones become one initializer."""
        kind = dtype or self.dtype
        data = np.asarray(array).astype(kind.numpy())
        key = (kind, data.shape, data.tobytes())
        if key not in self._constants:
            name = f"constant.{len(self._constants)}"
            self._constants[key] = self._initializer(ir.Tensor(data, dtype=kind, name=name))
        return self._constants[key]

    def integers(self, *values: int) -> ir.Value:
        return self.constant(values, ir.DataType.INT64)

    def array(self, name: str, array: npt.NDArray[np.generic], dtype: ir.DataType) -> ir.Value:
        """A named initializer held in memory: scales, biases, rope tables."""
        if name in self.initializers:
            return self.initializers[name]
        return self._initializer(ir.Tensor(np.ascontiguousarray(array.astype(dtype.numpy())), dtype=dtype, name=name))

    def stored(
        self, name: str, source: Stored, dtype: ir.DataType | None = None, shape: tuple[int, ...] | None = None
    ) -> ir.Value:
        """A named initializer whose bytes stay in the engine's file, read there as `dtype` and `shape` where given."""
        if name in self.initializers:
            return self.initializers[name]
        return self._initializer(source.external(name, dtype, shape))

    def floats(self, name: str, source: Stored) -> ir.Value:
        """A float weight in the activations' dtype, converted while it is written where the engine's dtype is another."""
        if source.dtype is self.dtype or name in self.initializers:
            return self.stored(name, source)
        return self._initializer(ConvertedTensor(source, self.dtype, name))

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Casts a value of the activations' dtype to `dtype`, or one of float32 back: nothing where the two are one."""
        return value if self.dtype is ir.DataType.FLOAT else self.op("Cast", value, to=int(dtype))

    def model(self, name: str) -> ir.Model:
        domains = {node.domain for node in self._tape.nodes}
        graph = ir.Graph(
            self.inputs,
            self.outputs,
            nodes=self._tape.nodes,
            initializers=list(self.initializers.values()),
            opset_imports={"": OPSET} | {domain: 1 for domain in sorted(domains) if domain},
            name=name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="ingot")

    def _initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        assert tensor.name
        value = ir.Value(
            name=tensor.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        self.initializers[tensor.name] = value
        return value
