"""What `ingot bench` shows: bars while it works, tables when it is done. Knows how figures read best; computes none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from ingot.runtime.bench.chat import ChatResult
    from ingot.runtime.bench.lines import Ratio
    from ingot.runtime.bench.offline import Result
    from ingot.runtime.bench.start import Start
    from ingot.runtime.bench.subject import Subject


@contextmanager
def bars(console: Console) -> Iterator[Progress]:
    """A bar for each task added, on the console while it works."""
    columns = (TextColumn("{task.description:<16}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    # Drawing takes the interpreter from what is measured: seldom, then.
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        yield progress


def table(title: str, *columns: str) -> Table:
    found = Table(title=title, title_justify="left", title_style="bold", header_style="")
    for index, column in enumerate(columns):
        found.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    return found


def subject_text(subject: Subject) -> str:
    ceilings = subject.ceilings
    rates = ", ".join(f"{name} {rate / 1e12:,.3g}" for name, rate in ceilings.gemm.items())
    copied = f"copy {ceilings.copy / 1e12:.3g} TB/s"
    return f"{subject.mode}, loaded in {subject.load_seconds:.1f} s. Ceilings: {copied}; GEMM TFLOP/s: {rates}"


def offline_table(results: Sequence[Result]) -> Table:
    found = table(
        "Offline", "ISL/OSL x N", "seconds", "output tokens/s", "limit", "share of it", "launch", "wait", "rest"
    )
    for result in results:
        host, workload = result.timing.line(), result.workload
        found.add_row(
            f"{workload.isl}/{workload.osl} x {workload.requests}", f"{result.timing.seconds:.2f}",
            f"{result.timing.output_tok_s:,.0f}", f"{result.limit_tok_s:,.0f}", f"{result.share:.0%}",
            *(f"{host[name]:.2f} s" for name in ("launch", "wait", "schedule_and_settle")),
        )  # fmt: skip
    return found


def steps_table(results: Sequence[Result]) -> Table:
    found = table(
        "One step, milliseconds", "step: rows x context", "step", "GEMM", "attention", "norms, RoPE, SiLU, rounding", "sampling", "other",
        "gaps",
    )  # fmt: skip
    for step in (step for result in results for step in result.steps):
        parts = [step.parts[kind] for kind in ("gemm", "attention", "rows", "sampling", "other")]
        found.add_row(step.step, *(f"{value:.2f}" for value in (step.ms, *parts, step.gaps)))
    return found


def ratio_table(ratios: Sequence[Ratio]) -> Table:
    found = table(
        "Output tokens/s, ratio to another engine", "ISL/OSL x N", "mode", "ingot", "theirs", "ratio", "engine"
    )
    for one in ratios:
        mode, workload = one.ours.key
        figures = (
            f"{one.ours.output_tok_s:,.0f}",
            f"{one.theirs.output_tok_s:,.0f}",
            f"{one.ratio:.2f}",
            f"{one.theirs.engine}, {one.theirs.quant}" if one.theirs.quant not in ("", "none") else one.theirs.engine,
        )
        found.add_row(workload, mode, *figures)
    return found


def chat_table(result: ChatResult) -> Table:
    chats = result.chats
    title = (
        f"{chats.conversations} conversations of {chats.turns} turns, a system prompt of {chats.system} tokens for all"
    )
    found = table(title, "", "no cache", "prefix cache")
    found.add_row("seconds", f"{result.cold.seconds:.2f}", f"{result.warm.seconds:.2f}")
    found.add_row("prompt tokens found", f"{result.cold.hit_rate:.1%}", f"{result.warm.hit_rate:.1%}")
    found.add_row("speed-up", "", f"{result.speedup:.2f} x")
    return found


def start_table(starts: Sequence[Start]) -> Table:
    found = table(
        "From the engine's folder to its first token", "seconds", *(f"run {i + 1}" for i in range(len(starts)))
    )
    for phase in starts[0].phases:
        found.add_row(phase, *(f"{start.phases[phase]:.2f}" for start in starts))
    found.add_row("all", *(f"{start.seconds:.2f}" for start in starts), style="bold")
    return found
