"""TensorRT's runtime API in place of a GPU: it checks and records every call, and computes a plan by its ONNX model.

A "plan" is what fake_plan makes: profiles and an ONNX model, run by ONNX's reference evaluator. Addresses are host
addresses, so what is bound wrongly computes wrongly. PagedAttention nodes run the plugin that was registered when the plan
was loaded, through the plugin classes of tensorrt_rtx.
"""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import tensorrt_rtx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

for _name in (
    *("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuildV2", "IPluginV3OneRuntime", "IPluginCreatorV3One", "DataType"),
    *("TensorFormat", "DimsExprs", "DimensionOperation", "PluginField", "PluginFieldCollection", "PluginFieldType"),
    *("TensorRTPhase", "PluginTensorDesc", "Dims"),
):
    globals()[_name] = getattr(tensorrt_rtx, _name)

MAGIC = b"plan of a fake\n"
Profile = Mapping[str, Sequence[int]]  # least, usual and most of each dynamic dimension
DTYPES = {onnx.TensorProto.FLOAT: ("FLOAT", np.float32), onnx.TensorProto.INT32: ("INT32", np.int32)}


def fake_plan(model: Path, profiles: Sequence[Profile]) -> bytes:
    header = json.dumps([{name: list(sizes) for name, sizes in profile.items()} for profile in profiles]).encode()
    graph: bytes = onnx.load(model).SerializeToString()
    return MAGIC + header + b"\n" + graph


class Logger:
    WARNING = 2

    def __init__(self, min_severity: int) -> None:
        self.severity = min_severity


class IPluginRegistry:
    def __init__(self) -> None:
        self.creators: dict[str, Any] = {}
        self.calls: list[str] = []

    def register_creator(self, creator: Any, plugin_namespace: str) -> bool:
        self.calls.append(f"register {plugin_namespace}")
        return self.creators.setdefault(f"{plugin_namespace}::{creator.name}", creator) is creator

    def deregister_creator(self, creator: Any) -> bool:
        self.calls.append("deregister")
        return self.creators.pop(f"ingot::{creator.name}", None) is not None


REGISTRY = IPluginRegistry()


def get_plugin_registry() -> IPluginRegistry:
    return REGISTRY


class Runtime:
    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        if not serialized_engine.startswith(MAGIC):
            return None
        header, _, model = serialized_engine.removeprefix(MAGIC).partition(b"\n")
        return ICudaEngine(onnx.load_from_string(model), json.loads(header))


class PluginNode(OpRun):  # type: ignore[misc]
    """A PagedAttention node as TensorRT runs it: on addresses, its cache's input and output being one."""

    op_domain = "ingot"
    __name__ = "PagedAttention"
    plugins: dict[str, Any]

    def _run(self, *inputs: Any, **attributes: Any) -> tuple[Any, Any]:
        plugin = self.plugins[self.onnx_node.name]
        arrays = [np.ascontiguousarray(each) for each in inputs]
        assert arrays[3] is inputs[3], "the cache itself, not a copy"
        out = np.full((len(arrays[0]), math.prod(arrays[0].shape[1:])), np.nan, arrays[0].dtype)
        described = [describe(each) for each in arrays]
        results = [describe(out), described[3]]
        plugin.on_shape_change(described, results)
        addresses = [each.ctypes.data for each in arrays]
        plugin.enqueue(described, results, addresses, [out.ctypes.data, addresses[3]], 0, 0)
        return out, inputs[3]


def describe(array: Any) -> Any:
    kinds = {np.dtype(kind): name for name, kind in DTYPES.values()}
    return SimpleNamespace(dims=array.shape, type=SimpleNamespace(name=kinds[array.dtype]))


class ICudaEngine:
    device_memory = 64

    def __init__(self, model: onnx.ModelProto, profiles: list[Profile]) -> None:
        self.profiles = profiles
        nodes = [node for node in model.graph.node if node.op_type == "PagedAttention"]
        operator = type("PagedAttention", (PluginNode,), {"plugins": {node.name: self.plugin(node) for node in nodes}})
        self.evaluator = ReferenceEvaluator(model, new_ops=[operator])
        self.inputs = {value.name: value.type.tensor_type for value in model.graph.input}
        self.outputs = {value.name: value.type.tensor_type for value in model.graph.output}
        self.contexts: list[IExecutionContext] = []

    @staticmethod
    def plugin(node: onnx.NodeProto) -> Any:
        creator = REGISTRY.creators["ingot::PagedAttention"]
        found = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        fields = [
            SimpleNamespace(name=name, data=np.array([found[name]]))
            for name in ("scale", "window", "k_scale", "v_scale")
        ]
        return creator.create_plugin(node.name, fields, tensorrt_rtx.TensorRTPhase.RUNTIME).attach_to_context(None)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, runtime_config: IRuntimeConfig) -> IExecutionContext:
        self.contexts.append(IExecutionContext(self, runtime_config))
        return self.contexts[-1]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return self.device_memory * (1 + profile_index)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        profile = self.profiles[profile_index]
        return [self.shape(name, {dim: sizes[i] for dim, sizes in profile.items()}) for i in range(3)]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape(name, dict.fromkeys(self.profiles[0], -1))

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=DTYPES[(self.inputs | self.outputs)[name].elem_type][0])

    def shape(self, name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
        dims = (self.inputs | self.outputs)[name].shape.dim
        return tuple(sizes[dim.dim_param] if dim.dim_param else dim.dim_value for dim in dims)


class IRuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self.cache = cache
        return True


class IRuntimeCache:
    content = b""

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"kernels;"):
            return False
        self.content = blob
        return True

    def serialize(self) -> bytes:
        return self.content + b"kernels;"


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, config: IRuntimeConfig) -> None:
        assert config.strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        self.engine, self.config = engine, config
        self.profile: int | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.memory: tuple[int, int] | None = None
        self.runs: list[dict[str, tuple[int, ...]]] = []  # the shapes of every execution

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        return profile_index < len(self.engine.profiles)

    def is_stream_capturable(self, stream: int) -> bool:
        assert set(self.shapes) == set(self.engine.inputs), "it depends on them"
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self.profile is not None
        assert size >= self.engine.get_device_memory_size_for_profile_v2(self.profile)
        self.memory = (memory, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name in self.engine.inputs
        assert self.profile is not None
        least, _, most = self.engine.get_tensor_profile_shape(name, self.profile)
        if len(shape) != len(most) or not all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True)):
            return False
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert name in self.engine.inputs or name in self.engine.outputs
        self.addresses[name] = memory
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        sizes: dict[str, int] = {}
        for given, shape in self.shapes.items():
            for dim, size in zip(self.engine.inputs[given].shape.dim, shape, strict=True):
                if dim.dim_param:
                    assert sizes.setdefault(dim.dim_param, size) == size, (given, dim.dim_param)
        return self.engine.shape(name, sizes)

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self.memory
        assert set(self.shapes) == set(self.engine.inputs)
        assert set(self.addresses) == set(self.engine.inputs) | set(self.engine.outputs)
        aliases = {name: name.replace("_out", "") for name in self.engine.outputs if name.startswith("kv_cache_out")}
        read = [self.addresses[name] for name in self.engine.inputs]
        written = [self.addresses[name] for name in self.engine.outputs if name not in aliases]
        assert not set(read) & set(written), "outputs overwrite inputs"
        assert all(self.addresses[a] == self.addresses[b] for a, b in aliases.items()), "the cache is extended in place"
        self.runs.append(dict(self.shapes))
        caches = set(aliases.values())
        feeds = {n: self.view(n) if n in caches else self.view(n).copy() for n in self.engine.inputs}
        for name, value in zip(self.engine.outputs, self.engine.evaluator.run(None, feeds), strict=True):
            if name not in aliases:
                self.view(name)[...] = value
        return True

    def view(self, name: str) -> Any:
        kind = DTYPES[(self.engine.inputs | self.engine.outputs)[name].elem_type][1]
        shape = self.get_tensor_shape(name)
        memory = (ctypes.c_uint8 * (math.prod(shape) * 4)).from_address(self.addresses[name])
        return np.frombuffer(memoryview(memory), np.dtype(kind)).reshape(shape)


class ExecutionContextAllocationStrategy:
    USER_MANAGED = "user managed"


class DynamicShapesKernelSpecializationStrategy:
    LAZY, EAGER = "lazy", "eager"
