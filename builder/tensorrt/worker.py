"""Builds one plan with TensorRT or TensorRT-RTX in a process of its own, because the library may abort its process.

Knows the libraries' builder and files; refuses to know models. Run as `python -m ingot.builder.tensorrt.worker JOB.json`.
"""

from __future__ import annotations

import resource
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

import msgspec

REFUSED = 3  # exit code: the library said no, and its errors are in the log
ERROR = "ERROR: "


class PluginOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the attention plugin's kernels must know while the library tries them."""

    max_seqs: int
    num_heads: int
    head_dim: int
    device: str = "cuda"


class PlanOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What all plans of an engine have in common."""

    title: str  # of the library, for people
    package: str
    profiles: list[dict[str, tuple[int, int, int]]]  # sizes of dynamic dimensions, by name: least, usual, most
    sms: list[int] = []  # TensorRT-RTX's, which builds without a GPU; TensorRT builds for the one at hand
    plugin: PluginOrder | None = None
    workspace: int | None = None  # bytes of scratch that one operation may take on the GPU
    timings_read: str | None = None  # a timing cache of an earlier build
    timings_written: str | None = None


class PlanJob(msgspec.Struct, frozen=True, kw_only=True):
    model: str  # ONNX file
    plan: str  # file to write
    log: str  # file to write
    result: str  # file to write: PlanResult
    order: PlanOrder


class PlanResult(msgspec.Struct, frozen=True, kw_only=True):
    library: str
    seconds: float
    peak_rss: int  # bytes


def build(job: PlanJob, log: TextIO) -> bool:
    """Writes the plan. False where the library refused; why is in the log."""
    trt, order = import_module(job.order.package), job.order

    class FileLogger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.write(f"{ERROR if severity <= trt.ILogger.Severity.ERROR else ''}{message}\n")
            log.flush()

    logger = FileLogger()
    builder = trt.Builder(logger)
    creator = None if order.plugin is None else register_plugin(trt, order.plugin)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(job.model):
        return False
    config = configure(trt, builder, order)
    for sizes in order.profiles:
        config.add_optimization_profile(profile(builder, network, sizes))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return False
    Path(job.plan).write_bytes(plan)
    if order.timings_written is not None:
        Path(order.timings_written).write_bytes(config.get_timing_cache().serialize())
    if creator is not None:
        trt.get_plugin_registry().deregister_creator(creator)
    return True


def register_plugin(trt: Any, order: PluginOrder) -> Any:
    """The creator, which the caller keeps as long as it builds."""
    import torch

    from ingot.plugins.attention.tensorrt_launch import KernelLaunch
    from ingot.plugins.attention.tensorrt_plugin import NAMESPACE, plugin_creator

    launch = KernelLaunch(
        max_seqs=order.max_seqs, num_heads=order.num_heads, head_dim=order.head_dim, device=torch.device(order.device)
    )
    creator = plugin_creator(trt, launch, device=order.device)
    trt.get_plugin_registry().register_creator(creator, NAMESPACE)
    return creator


def configure(trt: Any, builder: Any, order: PlanOrder) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the log then lists layers with dtypes
    if order.sms:
        config.num_compute_capabilities = len(order.sms)
        for index, sm in enumerate(order.sms):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), index)
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # else its executions cannot be captured
    if order.plugin is not None:
        config.set_preview_feature(trt.PreviewFeature.ALIASED_PLUGIN_IO_10_03, True)  # the cache is extended in place
        config.max_aux_streams = 0  # layers share the plugin's workspace: they run in turn
    if order.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, order.workspace)
    if order.timings_written is not None:
        known = Path(order.timings_read).read_bytes() if order.timings_read else b""
        config.set_timing_cache(config.create_timing_cache(known), False)
    return config


def profile(builder: Any, network: Any, sizes: dict[str, tuple[int, int, int]]) -> Any:
    found = builder.create_optimization_profile()
    for tensor in map(network.get_input, range(network.num_inputs)):
        shape = [sizes.get(tensor.get_dimension_name(i), (n,) * 3) for i, n in enumerate(tensor.shape)]
        found.set_shape(tensor.name, *zip(*shape, strict=True))
    return found


def peak_rss() -> int:
    """Bytes. Not getrusage's figure, which a process inherits from the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main(path: str) -> int:
    job = msgspec.json.decode(Path(path).read_bytes(), type=PlanJob)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    start = time.monotonic()
    with Path(job.log).open("w") as log:
        if not build(job, log):
            return REFUSED
    library = import_module(job.order.package).__version__
    result = PlanResult(library=library, seconds=time.monotonic() - start, peak_rss=peak_rss())
    Path(job.result).write_bytes(msgspec.json.encode(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
