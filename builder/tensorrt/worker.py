"""Builds one plan with TensorRT-RTX in a process of its own, because the library may abort the process it runs in.

Knows TensorRT-RTX and files; refuses to know models. Run as `python -m ingot.builder.tensorrt.worker JOB.json`.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import msgspec

REFUSED = 3  # exit code: the library said no, and its errors are in the log
ERROR = "ERROR: "


class PlanJob(msgspec.Struct, frozen=True, kw_only=True):
    model: str  # ONNX file
    plan: str  # file to write
    log: str  # file to write
    result: str  # file to write: PlanResult
    sms: list[int]
    sizes: dict[str, tuple[int, int, int]]  # of each dynamic dimension, by name: least, usual, most


class PlanResult(msgspec.Struct, frozen=True, kw_only=True):
    library: str
    seconds: float
    peak_rss: int  # bytes


def build(job: PlanJob, log: TextIO) -> bool:
    """Writes the plan. False where the library refused; why is in the log."""
    import tensorrt_rtx as trt

    class FileLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.write(f"{ERROR if severity <= trt.ILogger.Severity.ERROR else ''}{message}\n")
            log.flush()

    logger = FileLogger()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(job.model):
        return False
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the log then lists layers with dtypes
    config.num_compute_capabilities = len(job.sms)
    for index, sm in enumerate(job.sms):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), index)
    profile = builder.create_optimization_profile()
    for tensor in map(network.get_input, range(network.num_inputs)):
        shape = [job.sizes.get(tensor.get_dimension_name(i), (n,) * 3) for i, n in enumerate(tensor.shape)]
        profile.set_shape(tensor.name, *zip(*shape, strict=True))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return False
    Path(job.plan).write_bytes(plan)
    return True


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
    import tensorrt_rtx as trt

    result = PlanResult(library=trt.__version__, seconds=time.monotonic() - start, peak_rss=peak_rss())
    Path(job.result).write_bytes(msgspec.json.encode(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
