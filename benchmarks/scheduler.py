"""Host cost of one step, with a program that costs nothing: python benchmarks/scheduler.py. Last line: JSON.

Times are CPU time of the one thread that works, so that neighbours on the machine do not count.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from statistics import median

import click
from record import publish
from rich.console import Console
from rich.table import Table

from ingot.manifest import Limits
from ingot.runtime.load import calm_garbage_collection
from ingot.runtime.messages import TokenRequest
from ingot.runtime.pages import PagePool
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import StepPlan, StepResult
from ingot.runtime.prefix import PrefixTree
from ingot.runtime.scheduler import Scheduler

PAGE_SIZE = 16
ROUNDS = 5


def result_of(plan: StepPlan) -> StepResult:
    count = len(plan.slices)
    return StepResult([7] * count, [None] * count, [None] * count)


def step_times(num_seqs: int, steps: int, steps_ahead: int) -> list[float]:
    """Milliseconds of schedule + settle per step while `num_seqs` sequences decode."""
    limits = Limits(max_model_len=4096, max_num_seqs=num_seqs, max_num_batched_tokens=8192, page_size=PAGE_SIZE)
    scheduler = Scheduler(limits, num_pages=num_seqs * (64 + steps) // PAGE_SIZE + num_seqs, eos_token_ids=[2])
    rng = random.Random(0)
    for number in range(num_seqs):
        tokens = [rng.randrange(3, 30_000) for _ in range(rng.randrange(1, 64))]
        params = SamplingParams(max_tokens=steps + 16)
        scheduler.add(TokenRequest(request_id=str(number), token_ids=tokens, params=params))
    launched: list[StepPlan] = []
    times = []
    for _ in range(steps + 8):
        started = time.thread_time()
        plan = scheduler.schedule()
        scheduled = time.thread_time()
        if plan is None:
            raise click.ClickException("The scheduler ran dry before the benchmark ended.")
        launched.append(plan)
        oldest = launched.pop(0) if len(launched) > steps_ahead else None
        result = result_of(oldest) if oldest else None
        resumed = time.thread_time()
        if oldest and result:
            scheduler.settle(oldest, result)
        if oldest and len(plan.slices) == num_seqs and plan.num_tokens == num_seqs:
            times.append((scheduled - started + time.thread_time() - resumed) * 1e3)
    scheduler.leases.pool.check()
    return times


def match_times(prompt: int, repeats: int) -> list[float]:
    """Milliseconds to find and lease a cached prompt of so many tokens in a tree that holds eight such prompts."""
    pool = PagePool(8 * (prompt // PAGE_SIZE + 1))
    tree = PrefixTree(pool, PAGE_SIZE)
    rng = random.Random(0)
    prompts = [[rng.randrange(130_000) for _ in range(prompt)] for _ in range(8)]
    for tokens in prompts:
        full = len(tokens) // PAGE_SIZE
        tree.retire(tokens, tree.lease(full), 0, full, None)
    times = []
    for turn in range(repeats):
        tokens = [*prompts[turn % 8], 5]
        started = time.thread_time()
        pages = tree.match(tokens, None)
        times.append((time.thread_time() - started) * 1e3)
        pool.release(pages)
    return times


def quietest(measure: Callable[[], list[float]]) -> list[float]:
    """The fastest of a few rounds: on a shared machine, neighbours only ever add."""
    return min((measure() for _ in range(ROUNDS)), key=median)


@click.command()
@click.option("--seqs", default=1024, show_default=True, help="Running sequences.")
@click.option("--steps", default=200, show_default=True, help="Steps to time.")
@click.option("--prompt", default=10_000, show_default=True, help="Tokens of the prompt to look up.")
@click.option("--record", is_flag=True, help="Keep the result in benchmarks/results/.")
def main(seqs: int, steps: int, prompt: int, record: bool) -> None:
    """Times schedule + settle, and a prefix match against a warm tree."""
    calm_garbage_collection()  # as the executor's process does
    rows = {
        "schedule + settle, steps_ahead 0": quietest(lambda: step_times(seqs, steps, 0)),
        "schedule + settle, steps_ahead 1": quietest(lambda: step_times(seqs, steps, 1)),
        f"prefix match, {prompt} tokens": quietest(lambda: match_times(prompt, steps)),
    }
    table = Table("what", "p50 CPU ms", "p99 CPU ms", title=f"{seqs} running sequences, one core")
    for name, times in rows.items():
        table.add_row(name, f"{median(times):.3f}", f"{sorted(times)[int(len(times) * 0.99)]:.3f}")
    Console().print(table)
    alone, ahead, match = (median(times) for times in rows.values())
    line = {
        "benchmark": "scheduler",
        "step_ms_p50": max(alone, ahead),
        "prefix_match_ms_p50": match,
        "num_seqs": seqs,
    }
    publish(line, record=record)


if __name__ == "__main__":
    main()
