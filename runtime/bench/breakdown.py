"""Where one step's time goes: GEMMs, attention, other kernels, and gaps between them. Plans are made by hand, at the program's
contract, so that any program can be taken apart and no executor stands between."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from ingot.runtime.bench.workload import Workload
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import Arrival, Program, Slice, StepPlan, Ticket

STEPS, PROFILED = 9, 4
SHOWN = 8  # kernels by name in a result: those that take longest

# Parts of kernels' names (CUDA) and operators' names (CPU), the first that fits; all else is `other`.
KINDS = {
    "attention": (
        "attention",
        "paged_decode",
        "decode_kernel",
        "prefill",
        "combine_kernel",
        "tiles_kernel",
        "fmha",
        "flash",
    ),
    "gemm": (
        "gemm",
        "nvjet",
        "cutlass",
        "xmma",
        "cublas",
        "skinny",
        "gated",
        "splitk",
        "aten::mm",
        "aten::addmm",
        "mkldnn",
    ),
    "rows": (
        "rms_norm",
        "silu_mul",
        "rope_kernel",
        "quantize_kernel",
        "write_kernel",
    ),  # RoPE with the KV write, or that alone
    "sampling": ("argmax",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """Milliseconds of one step. `gaps` is what the parts leave of it: below zero where kernels overlap."""

    step: str  # "decode 1024 x 384", "prompt 4 x 2048"
    ms: float
    parts: dict[str, float]  # by KINDS, and other
    gaps: float
    kernels: dict[str, float]

    def line(self) -> dict[str, object]:
        rounded = {name: round(value, 4) for name, value in {**self.parts, "gaps": self.gaps}.items()}
        kernels = {name: round(value, 4) for name, value in self.kernels.items()}
        return {"step": self.step, "ms": round(self.ms, 4), "parts_ms": rounded, "kernels_ms": kernels}


def kind_of(name: str) -> str:
    lower = name.lower()
    return next((kind for kind, words in KINDS.items() if any(word in lower for word in words)), "other")


def decode_slices(program: Program, workload: Workload) -> list[Slice]:
    """One token of every sequence that runs at once, in the middle of its answer."""
    length = workload.isl + max(1, workload.osl // 2)
    each = -(-length // program.page_size)
    rows = max(1, min(workload.requests, program.max_num_seqs, program.num_pages // each))
    return [make_slice(row, length - 1, [1], each) for row in range(rows)]


def prompt_slices(program: Program, workload: Workload, max_tokens: int) -> list[Slice]:
    """A step filled with whole prompts; part of one where not even that fits."""
    count = min(workload.isl, max_tokens)
    each = -(-count // program.page_size)
    rows = min(workload.requests, program.max_num_seqs, program.num_pages // each, max_tokens // count)
    return [make_slice(row, 0, [1 + i % (program.vocab_size - 1) for i in range(count)], each) for row in range(rows)]


def make_slice(row: int, start: int, tokens: list[int], pages: int) -> Slice:
    """A sequence whose pages lie next to each other."""
    own = list(range(row * pages, (row + 1) * pages))
    return Slice(row, row, start, tokens, own, pages, True)


def break_down(program: Program, name: str, slices: list[Slice]) -> Breakdown:
    """Runs the step again and again, as far ahead as the program allows. Whatever its KV pool and rows held is lost."""
    greedy = SamplingParams(temperature=0.0, ignore_eos=True)
    arrivals = [Arrival(part.row, part.seq_id, greedy, 0, [1], []) for part in slices]
    program.launch(StepPlan(0, slices, arrivals)).result()
    # From now on the program's tables have the pages.
    again = [Slice(part.row, part.seq_id, part.start, part.tokens, part.pages, 0, True) for part in slices]
    run_steps(program, again, 2)
    ms = 1e3 * median(run_steps(program, again, STEPS))
    on_gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        run_steps(program, again, PROFILED)
    kernels = kernel_times(list(profiled.events() or ()), on_gpu=on_gpu)
    program.launch(StepPlan(0, [], [], [part.row for part in slices]))
    parts = dict.fromkeys((*KINDS, "other"), 0.0)
    for kernel, spent in kernels.items():
        parts[kind_of(kernel)] += spent
    longest = sorted(kernels, key=kernels.__getitem__, reverse=True)[:SHOWN]
    return Breakdown(
        step=f"{name} {len(slices)} x {slices[0].start + len(slices[0].tokens)}", ms=ms, parts=parts, gaps=ms - sum(parts.values()),
        kernels={kernel[:60]: kernels[kernel] for kernel in longest},
    )  # fmt: skip


def run_steps(program: Program, slices: list[Slice], count: int) -> list[float]:
    """Seconds from one result to the next, with program.steps_ahead steps on their way."""
    tickets: deque[Ticket] = deque()
    ends = [time.perf_counter()]
    for step in range(count + program.steps_ahead):
        if step < count:
            tickets.append(program.launch(StepPlan(step, slices)))
        if len(tickets) > program.steps_ahead or step >= count:
            tickets.popleft().result()
            ends.append(time.perf_counter())
    return [after - before for before, after in pairwise(ends)]


def kernel_times(events: list[FunctionEvent], *, on_gpu: bool) -> dict[str, float]:
    """Milliseconds of each kernel, or operator on a CPU, in one step."""
    found: dict[str, float] = defaultdict(float)
    for event in events:
        if on_gpu and event.device_type.name == "CUDA":
            found[event.name] += event.device_time_total / 1e3 / PROFILED
        elif not on_gpu:
            found[event.name] += event.self_cpu_time_total / 1e3 / PROFILED
    return found
