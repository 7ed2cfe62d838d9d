"""What a scheduling choice does to a workload on one H200, without one: python benchmarks/simulate.py. Last line: JSON.

The real scheduler decides; steps are not run but timed by a model of an 8B Llama, whose constants are docs/performance.md's.
"""

from __future__ import annotations

import json
import random
from collections import deque
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import ceil, hypot
from pathlib import Path

import click
from record import publish
from rich.console import Console
from rich.table import Table

from ingot.manifest import Limits
from ingot.plugins.step_sizes import full_step_tokens, usual_sizes
from ingot.runtime.bench.workload import Workload, parse_workload
from ingot.runtime.messages import TokenRequest
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import StepPlan, StepResult
from ingot.runtime.scheduler import Scheduler

WORKLOADS = "128/256x1,128/256x16,128/512x1024,1024/256x768,2048/128x384"
MEASURED = Path(__file__).parent / "results" / "h200-llama-3.1-8b.jsonl"
STAGE = "2026-11-22 nothing compiled while serving"
PAGE_SIZE = 32
GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Rates of one H200 running the shape of Llama-3.1-8B. Times are in milliseconds, work of all layers together."""

    linear: float = 6.98e9  # parameters
    head: float = 0.525e9  # parameters, bf16 always
    weight_bytes: float = 2.0  # of one parameter of the linears
    kv_bytes: float = 131_072.0  # of one token
    weight_rate: float = 3.9e9  # bytes a ms: 92 % of the copy
    kv_rate: float = 4.12e9  # bytes a ms: KV read by decodes
    gemm: float = 0.735e12  # FLOPs a ms
    head_rate: float = 0.70e12
    prompt_rate: float = 0.30e12  # FLOPs a ms of prefill attention
    row_ms: float = 0.00134  # norms, RoPE, SiLU, rounding of one token
    sampled_ms: float = 0.00014  # of one sampled token
    decode_ms: float = 0.45  # of a captured step, whatever is in it
    mixed_ms: float = 4.0  # the same of an eager step
    pool_gib: float = 109.2  # with it, 1024/256x768 takes as many steps as measured


MODES = {
    "bf16": Machine(),
    "fp8kv": Machine(
        weight_bytes=1.0, kv_bytes=65_536.0, kv_rate=3.55e9, gemm=1.42e12, row_ms=0.00166, decode_ms=0.85, pool_gib=115.5,
    ),
}  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Outcome:
    seconds: float = 0.0
    steps: int = 0
    slices: int = 0
    recomputed: int = 0  # tokens
    preemptions: int = 0
    output_tok_s: float = 0.0


def step_ms(machine: Machine, plan: StepPlan) -> float:
    """How long a step takes: its parts one after the other, as the profiler shows them."""
    tokens = keys = 0
    scores = 0.0  # products of a query with a key
    for part in plan.slices:
        count = len(part.tokens)
        tokens += count
        if count == 1:
            keys += part.start + 1
        else:
            scores += count * (part.start + count / 2)
    sampled = sum(part.samples for part in plan.slices)
    is_mixed = scores > 0
    if not is_mixed:
        tokens = sampled = padded(tokens)
    # Neither bytes nor FLOPs alone bind at 64-512 rows: their hypotenuse is within 10 % of cuBLASLt from 1 to 1024 rows.
    weights = machine.linear * machine.weight_bytes / machine.weight_rate
    linear = hypot(weights, 2 * machine.linear * tokens / machine.gemm)
    head = hypot(machine.head * 2 / machine.weight_rate, 2 * machine.head * sampled / machine.head_rate)
    attention = keys * machine.kv_bytes / machine.kv_rate + scores * 4 * 4096 * 32 / machine.prompt_rate
    rest = tokens * machine.row_ms + sampled * machine.sampled_ms
    return linear + head + attention + rest + (machine.mixed_ms if is_mixed else machine.decode_ms)


@cache
def padded(num_rows: int) -> int:
    """Rows of the graph that a decode step runs as."""
    return next(size for size in usual_sizes(max(num_rows, 4096)) if size >= num_rows)


def simulate(
    machine: Machine, workload: Workload, limits: Limits, *, asked: int = 1, drawn: bool = False, steps_ahead: int = 1
) -> Outcome:
    """Every request at once. Each asks for `asked` x osl tokens and stops after osl, or `drawn` after osl on average."""
    pages = int(machine.pool_gib * GIB / machine.kv_bytes) // PAGE_SIZE
    scheduler = Scheduler(limits, pages, eos_token_ids=[2])
    params = SamplingParams(temperature=0.0, max_tokens=workload.osl * asked)
    rng = random.Random(0)
    answers = [ceil(rng.expovariate(1 / workload.osl)) if drawn else workload.osl for _ in range(workload.requests)]
    for number in range(workload.requests):
        name = str(number)
        request = TokenRequest(request_id=name, token_ids=[7] * workload.isl, params=params, cache_salt=name)
        scheduler.add(request)
    outcome = Outcome()
    launched: deque[StepPlan] = deque()
    read = [0] * workload.requests  # tokens of each sequence that some step has computed
    given = [0] * workload.requests
    while scheduler.has_work:
        plan = scheduler.schedule()
        if plan is not None:
            launched.append(plan)
            outcome.seconds += step_ms(machine, plan) / 1e3
            outcome.slices += len(plan.slices)
            for part in plan.slices:
                end = part.start + len(part.tokens)
                outcome.recomputed += max(0, min(end, read[part.seq_id]) - part.start)
                read[part.seq_id] = max(end, read[part.seq_id])
        if plan is None or len(launched) > steps_ahead:
            oldest = launched.popleft()
            tokens = []
            for part in oldest.slices:
                given[part.seq_id] += part.samples
                tokens.append(2 if given[part.seq_id] == answers[part.seq_id] else 7)
            empty = [None] * len(tokens)
            scheduler.settle(oldest, StepResult(tokens, list(empty), list(empty)))
    stats = scheduler.stats()
    outcome.steps, outcome.preemptions = stats.steps, stats.preemptions
    outcome.output_tok_s = stats.generation_tokens / outcome.seconds
    return outcome


def measured(mode: str, workload: Workload) -> tuple[float, int] | None:
    """Output tokens/s and steps of one measured run, if there is one."""
    for text in MEASURED.read_text().splitlines():
        line = json.loads(text)
        key = line["mode"], line["isl"], line["osl"], line["requests"]
        if line.get("stage") == STAGE and key == (mode, workload.isl, workload.osl, workload.requests):
            return line["output_tok_s"], line["host_s"]["steps"]
    return None


@click.command()
@click.option("--workloads", default=WORKLOADS, show_default=True, help="ISL/OSLxN, separated by commas.")
@click.option("--modes", default="bf16,fp8kv", show_default=True)
@click.option("--tokens", type=int, help="Limits.max_num_batched_tokens. Default: as a build of the mode has it.")
@click.option("--seqs", default=1024, show_default=True, help="Limits.max_num_seqs.")
@click.option("--asked", default=1, show_default=True, help="max_tokens, as a multiple of the tokens that come.")
@click.option("--drawn", is_flag=True, help="Draw each answer's length: exponential, of mean OSL.")
@click.option("--set", "changes", multiple=True, metavar="NAME=NUMBER", help="Another constant of the machine.")
@click.option("--record", is_flag=True, help="Keep the result in benchmarks/results/.")
def main(
    workloads: str,
    modes: str,
    tokens: int | None,
    seqs: int,
    asked: int,
    drawn: bool,
    changes: tuple[str, ...],
    record: bool,
) -> None:
    """Seconds, tokens/s, steps and what preemption costs, beside what was measured."""
    table = Table(
        "workload", "mode", "s", "out tok/s", "measured", "steps", "measured", "recomputed", "preempted", "batch"
    )
    pairs = (change.partition("=") for change in changes)
    other = {name: float(number) for name, _, number in pairs}
    outcomes = {}
    for workload in map(parse_workload, workloads.split(",")):
        for mode in modes.split(","):
            most = tokens or full_step_tokens(mode)
            limits = Limits(max_model_len=8192, max_num_seqs=seqs, max_num_batched_tokens=most, page_size=PAGE_SIZE)
            outcome = simulate(replace(MODES[mode], **other), workload, limits, asked=asked, drawn=drawn)
            outcomes[f"{workload} {mode}"] = asdict(outcome)
            known = measured(mode, workload)
            table.add_row(
                str(workload), mode, f"{outcome.seconds:.2f}", f"{outcome.output_tok_s:,.0f}", f"{known[0]:,.0f}" if known else "",
                str(outcome.steps), str(known[1]) if known else "", f"{outcome.recomputed:,}", str(outcome.preemptions),
                f"{outcome.slices / outcome.steps:.0f}",
            )  # fmt: skip
    Console(width=120).print(table)
    publish({"benchmark": "simulate", "outcomes": outcomes}, record=record)


if __name__ == "__main__":
    main()
