"""Times GPU work without launch gaps: a CUDA graph of many calls, replayed; median of the replays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def seconds(calls: Sequence[Callable[[], object]], *, repeats: int = 7, inner: int = 1) -> float:
    """Mean seconds of one call, the calls taken in turn (so that several input sets defeat the L2), `inner` times each."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(inner):
            for call in calls:
                call()
    graph.replay()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    graph.reset()
    return sorted(times)[len(times) // 2] / (inner * len(calls))


def copy_bandwidth() -> float:
    """Bytes per second of a device-to-device copy, read and written bytes both counted."""
    source = torch.randn(1 << 30, device="cuda")
    target = torch.empty_like(source)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    times = []
    for _ in range(8):  # not in a graph: there a copy may run on the copy engine, at two thirds of the speed
        begin.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return 2 * source.numel() * 4 / sorted(times)[len(times) // 2]


def gemm_rate(dtype: torch.dtype) -> float:
    """FLOP per second of cuBLASLt at 8192 x 4096 x 28672, rowwise scaled in FP8."""
    m, k, n = 8192, 4096, 28672
    x, w = (torch.randn(rows, k, device="cuda", dtype=torch.bfloat16) for rows in (m, n))
    if dtype == torch.bfloat16:
        return 2 * m * n * k / seconds([lambda: x @ w.T], inner=4)
    a, b = x.to(dtype), w.to(dtype)
    scale_a, scale_b = torch.ones(m, 1, device="cuda"), torch.ones(1, n, device="cuda")
    call = lambda: torch._scaled_mm(a, b.T, scale_a, scale_b, out_dtype=torch.bfloat16, use_fast_accum=True)
    return 2 * m * n * k / seconds([call], inner=4)
