"""One captured step: a CUDA graph and the tensors it leaves its results in. Knows nothing of what is captured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch

Out = TypeVar("Out")
ErrorMode = Literal["global", "thread_local"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured(Generic[Out]):
    """replay() does the step again, on whatever now lies where it read, and overwrites `out`."""

    graph: torch.cuda.CUDAGraph
    out: Out

    def replay(self) -> None:
        self.graph.replay()


def capture(
    step: Callable[[], Out], *, beside: Captured[Any] | None = None, error_mode: ErrorMode = "global"
) -> Captured[Out]:
    """Runs `step` once, since a capture must not load kernels, then captures it; `beside` lends it its memory.

    error_mode: whose unsafe calls end a capture, see cudaStreamCaptureMode; a library that compiles in threads of its own
    asks for "thread_local".
    """
    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=beside.graph.pool() if beside else None, capture_error_mode=error_mode):
        out = step()
    return Captured(graph=graph, out=out)
