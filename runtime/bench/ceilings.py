"""What the machine at hand can do at best: bytes copied and GEMM FLOPs a second. Measured, never looked up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import msgspec
import torch

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float8_e4m3fn: "fp8"}
GPU_GEMM = (8192, 4096, 28672)  # rows, in, out: a step of 8192 tokens through Llama-3.1-8B's gate_up
CPU_GEMM = (512, 1024, 1024)
CPU_COPY_BYTES = 1 << 27  # far beyond a core's cache


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    copy: float  # bytes per second, read and written bytes both counted
    gemm: dict[str, float]  # FLOP per second by dtype's short name

    def line(self) -> dict[str, float]:
        """For a result: TB/s of the copy, TFLOP/s of the GEMMs."""
        return {name: round(value / 1e12, 6) for name, value in {"copy": self.copy, **self.gemm}.items()}


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """On a GPU of `dtype` and of FP8 where it has it (takes 10 GiB meanwhile); on a CPU, with the threads it has now, of `dtype`."""
    if device.type == "cpu":
        return Ceilings(copy=cpu_copy_bandwidth(), gemm={NAMES[dtype]: cpu_gemm_rate(dtype)})
    dtypes = [dtype, torch.float8_e4m3fn] if torch.cuda.get_device_capability() >= (8, 9) else [dtype]
    found = Ceilings(copy=copy_bandwidth(), gemm={NAMES[one]: gemm_rate(one) for one in dtypes})
    torch.cuda.empty_cache()
    return found


def seconds(calls: Sequence[Callable[[], object]], *, repeats: int = 7, inner: int = 1) -> float:
    """GPU seconds of one call without launch gaps: a CUDA graph of the calls in turn (so that several input sets defeat
    the L2), `inner` times each, replayed; the median of the replays."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(inner):
            for call in calls:
                call()
    graph.replay()
    times = [event_seconds(graph.replay) for _ in range(repeats)]
    graph.reset()
    return median(times) / (inner * len(calls))


def event_seconds(call: Callable[[], object]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def copy_bandwidth() -> float:
    """Bytes per second of a device-to-device copy, read and written bytes both counted."""
    source = torch.randn(1 << 30, device="cuda")
    target = torch.empty_like(source)
    # Not in a graph: there a copy may run on the copy engine, at two thirds of the speed.
    times = [event_seconds(lambda: target.copy_(source)) for _ in range(8)]
    return 2 * source.numel() * 4 / median(times)


def gemm_rate(dtype: torch.dtype) -> float:
    """FLOP per second of cuBLASLt at GPU_GEMM, rowwise scaled in FP8."""
    m, k, n = GPU_GEMM
    x, w = (torch.randn(rows, k, device="cuda", dtype=torch.bfloat16) for rows in (m, n))
    if dtype != torch.float8_e4m3fn:
        x, w = x.to(dtype), w.to(dtype)
        return 2 * m * n * k / seconds([lambda: x @ w.T], inner=4)
    a, b = x.to(dtype), w.to(dtype)
    scale_a, scale_b = torch.ones(m, 1, device="cuda"), torch.ones(1, n, device="cuda")
    call = lambda: torch._scaled_mm(a, b.T, scale_a, scale_b, out_dtype=torch.bfloat16, use_fast_accum=True)
    return 2 * m * n * k / seconds([call], inner=4)


def cpu_copy_bandwidth() -> float:
    source = torch.ones(CPU_COPY_BYTES // 4)
    target = torch.empty_like(source)
    return 2 * CPU_COPY_BYTES / wall_seconds(lambda: target.copy_(source))


def cpu_gemm_rate(dtype: torch.dtype) -> float:
    m, k, n = CPU_GEMM
    x, w = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    return 2 * m * n * k / wall_seconds(lambda: torch.nn.functional.linear(x, w))


def wall_seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """The quickest of `repeats`: on a CPU that others share too, that is the machine's own time."""
    call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)
