"""One captured step: a CUDA graph and the tensors it leaves its results in. Knows nothing of what is captured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

Out = TypeVar("Out")
ErrorMode = Literal["global", "thread_local"]
TYPES = {torch.float32: "<f4", torch.int32: "<i4", torch.int64: "<i8"}  # as NumPy names them


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured(Generic[Out]):
    """replay() does the step again, on whatever now lies where it read, and overwrites `out`."""

    graph: torch.cuda.CUDAGraph
    out: Out

    def replay(self) -> None:
        self.graph.replay()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies, without holding it."""

    __cuda_array_interface__: dict[str, Any]


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


def lent(out: Tensor) -> Tensor:
    """What a graph leaves in `out`, whose memory the next capture beside it may take: to be read before that one runs."""
    place = {"data": (out.data_ptr(), False), "shape": tuple(out.shape), "typestr": TYPES[out.dtype], "version": 2}
    return torch.as_tensor(Place(place), device=out.device)
