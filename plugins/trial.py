"""One kernel, several ways: which are right, and which of those is fastest. Knows calls and tensors, not what they compute."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
REPEATS = 7
WORTH = 0.99  # a way must take at most this share of the usual one's time to replace it
SLACK = 1e-6  # of the truth's norm: errors below are none


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(Generic[T]):
    """`ways[0]` is the usual one. `check` computes a small ragged case whose float32 result is `truth`; `run` is what is timed, after
    `warm` seconds of itself: large products run into the power limit, and which is fastest then no first call tells."""

    name: str
    ways: Sequence[T]
    check: Callable[[T], Tensor]
    truth: Tensor
    run: Callable[[T], object]
    warm: float = 0.0


@dataclass(slots=True)
class Verdict(Generic[T]):
    """`errors` are relative to the truth's norm; `seconds` are those of the ways that were right, of a trial with `warm` of two calls."""

    best: T
    errors: dict[T, float] = field(default_factory=dict)
    seconds: dict[T, float] = field(default_factory=dict)


def decide(trial: Trial[T]) -> Verdict[T]:
    """The fastest way whose error is at most twice the usual one's."""
    usual = trial.ways[0]
    verdict = Verdict(best=usual)
    for way in trial.ways:
        error = (trial.check(way).double() - trial.truth.double()).norm() / trial.truth.double().norm()
        verdict.errors[way] = error.item()
    allowed = 2 * verdict.errors[usual] + SLACK
    right = [
        way for way, error in verdict.errors.items() if way == usual or (math.isfinite(error) and error <= allowed)
    ]
    # What is held warms the GPU: the first way would have it cooler than the last.
    for order in (right, right[::-1]) if trial.warm else (right,):
        for way in order:
            verdict.seconds[way] = verdict.seconds.get(way, 0.0) + seconds(partial(trial.run, way), warm=trial.warm)
    fastest = min(verdict.seconds, key=verdict.seconds.__getitem__)
    if verdict.seconds[fastest] <= WORTH * verdict.seconds[usual]:
        verdict.best = fastest
    return verdict


def seconds(call: Callable[[], object], *, inner: int = 4, warm: float = 0.0) -> float:
    """Of one call within a CUDA graph of `inner`, median of the replays; `warm`: seconds of replays before."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(inner):
            call()
    graph.replay()
    begun = time.perf_counter()
    while time.perf_counter() - begun < warm:
        graph.replay()
        torch.cuda.synchronize()
    times: list[float] = []
    for _ in range(REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    graph.reset()
    return sorted(times)[REPEATS // 2] / inner
