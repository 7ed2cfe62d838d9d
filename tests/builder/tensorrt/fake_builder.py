"""TensorRT's builder API in place of the library: it checks and records every call, and its plans are the fake runtime's.

Installed as the module `tensorrt` in a worker process: python -m tests.builder.tensorrt.fake_builder JOB.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import tensorrt_rtx
from tests.runtime.fake_tensorrt import *
from tests.runtime.fake_tensorrt import REGISTRY, fake_plan

from ingot.builder.tensorrt import worker

__version__ = "11.4.0"
ILogger = tensorrt_rtx.ILogger
ProfilingVerbosity, PreviewFeature = tensorrt_rtx.ProfilingVerbosity, tensorrt_rtx.PreviewFeature
MemoryPoolType, BuilderFlag = tensorrt_rtx.MemoryPoolType, tensorrt_rtx.BuilderFlag
NetworkDefinitionCreationFlag = tensorrt_rtx.NetworkDefinitionCreationFlag


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"timed;"


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:
        self.shapes[input] = (min, opt, max)


class IBuilderConfig:
    profiling_verbosity: Any = None
    max_aux_streams: Any = None

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}
        self.profiles: list[IOptimizationProfile] = []

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        self.said[feature.name] = enable

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self.said[pool.name] = pool_size

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        self.said["known timings"] = serialized_timing_cache.decode()
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache:
        return self.cache

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1


class INetworkDefinition:
    def __init__(self) -> None:
        self.path = Path()
        self.inputs: list[ITensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, index: int) -> ITensor:
        return self.inputs[index]


class ITensor:
    def __init__(self, value: Any) -> None:
        self.name, self.dims = value.name, value.type.tensor_type.shape.dim
        self.shape = tuple(-1 if dim.dim_param else dim.dim_value for dim in self.dims)

    def get_dimension_name(self, index: int) -> str:
        return str(self.dims[index].dim_param)


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        self.network, self.logger = network, logger

    def parse_from_file(self, model: str) -> bool:
        graph = onnx.load(model, load_external_data=False).graph
        if any(node.op_type == "PagedAttention" for node in graph.node) and not REGISTRY.creators:
            self.logger.log(ILogger.Severity.ERROR, "Plugin not found")
            return False
        self.network.path = Path(model)
        self.network.inputs = [ITensor(value) for value in graph.input]
        return True


class Builder:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> INetworkDefinition:
        assert flags == 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes:
        """A plan of the profiles as they were set, input by input; what was said goes to the log."""
        profiles = []
        for profile in config.profiles:
            sizes: dict[str, Any] = {}
            for tensor in network.inputs:
                for i, dim in enumerate(tensor.dims):
                    chosen = [shape[i] for shape in profile.shapes[tensor.name]]
                    assert sizes.setdefault(dim.dim_param or f"fixed {dim.dim_value}", chosen) == chosen
            profiles.append(sizes)
        said = config.said | {"aux streams": config.max_aux_streams, "verbosity": config.profiling_verbosity.name}
        self.logger.log(ILogger.Severity.VERBOSE, json.dumps(said))
        return fake_plan(network.path, profiles)


if __name__ == "__main__":
    sys.modules["tensorrt"] = sys.modules["__main__"]
    sys.exit(worker.main(sys.argv[1]))
