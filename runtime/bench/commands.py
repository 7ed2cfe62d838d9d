"""`ingot bench`. Turns words into options, shows bars and tables, keeps results; the measuring is done by the modules it calls."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingot.runtime.bench.workload import Workload, parse_workload

if TYPE_CHECKING:
    from ingot.runtime.bench.subject import Subject

DEFAULT = "128/256x1,128/256x16,128/512x1024,1024/256x768,2048/128x384"
PLACE = click.Path(path_type=Path, exists=True)
FILE = click.Path(path_type=Path, dir_okay=False)
QUANTS = ("none", "fp8", "fp8-dynamic", "int8", "int4", "nvfp4")


def read_workloads(ctx: click.Context, param: click.Parameter, text: str) -> list[Workload]:
    """ISL/OSLxN, several with commas between."""
    try:
        return [parse_workload(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def subject_options(command: Callable[..., None]) -> Callable[..., None]:
    """What is measured, for commands that load it themselves."""
    config = "Instead of an engine: the shape of a config.json, or of a folder that has one, with random weights."
    whose = "Of random weights."
    options = (
        click.argument("engine", required=False, type=click.Path(path_type=Path)),
        click.option("--random-weights", type=PLACE, metavar="CONFIG", help=config),
        click.option(
            "--quant",
            type=click.Choice(QUANTS),
            help=f"{whose} fp8 rounds inputs by fixed scales, fp8-dynamic per token. Default: none.",
        ),
        click.option("--kv", type=click.Choice(["auto", "fp8"]), help=f"{whose} Default: auto."),
        click.option("--max-model-len", type=click.IntRange(2), help=f"{whose} Default: 8192."),
        click.option("--max-num-seqs", type=click.IntRange(1), help=f"{whose} Default: 64 on a CPU, 1024 on a GPU."),
        click.option(
            "--max-num-batched-tokens",
            type=click.IntRange(1),
            help=f"{whose} Default: 2048 on a CPU, on a GPU 8448 or, with fp8, 16896.",
        ),
        click.option(
            "--mixed-tokens",
            type=click.IntRange(0, 2048),
            help=f"{whose} On a GPU: steps with prompts of up to so many tokens run as CUDA graphs. Default: 2048.",
        ),
        click.option(
            "--drawn-rows",
            type=click.IntRange(0),
            help=f"{whose} On a GPU: tokens of up to so many rows are drawn in CUDA graphs. Default: 0.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def result_options(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option("--output", type=FILE, help="Appends the results, as JSON lines, as they come.")(command)
    return click.option("--run", metavar="ID", help="One id for all that is to be compared. Default: the time.")(
        command
    )


def open_subject(engine: Path | None, random_weights: Path | None, **shape: Any) -> Subject:
    """`shape`: the options of random weights, None where not given."""
    from ingot.runtime.bench.subject import RandomModel, load_engine, load_random

    given = {name: value for name, value in shape.items() if value is not None}
    if engine is not None and random_weights is None:
        if given:
            raise click.UsageError(
                f"--{next(iter(given)).replace('_', '-')} is for --random-weights; an engine has its own."
            )
        return load_engine(engine)
    if engine is None and random_weights is not None:
        return load_random(RandomModel(config=random_weights, **given))
    raise click.UsageError("Give one of ENGINE and --random-weights CONFIG.")


@click.group()
def bench() -> None:
    """Measure an engine against the machine it runs on and against other engines."""


@bench.command()
@subject_options
@click.option(
    "--workloads",
    default=DEFAULT,
    show_default=True,
    callback=read_workloads,
    metavar="ISL/OSLxN,...",
    help="Prompt and output tokens, requests.",
)
@click.option(
    "--breakdown/--no-breakdown", default=True, help="Also take a step of each workload apart.  [default: on]"
)
@click.option("--versus", type=FILE, help="A file of results: prints the ratio to another engine's of the same run.")
@click.option("--versus-run", metavar="ID", help="That engine's run, where it is another one.")
@result_options
def offline(
    workloads: list[Workload],
    breakdown: bool,
    versus: Path | None,
    versus_run: str | None,
    run: str | None,
    output: Path | None,
    **subject_words: Any,
) -> None:
    """Time workloads: output tokens/s, and the share of what the machine allows.

    All requests of a workload at once, greedy, EOS ignored, token ids in and out, nothing found in the prefix cache. The
    limit is arithmetic: the workload's GEMM FLOPs and the bytes of weights and KV that it reads, at the copy bandwidth and
    the GEMM rates measured in the same run. Results are JSON lines, one a workload; the last line is one.
    """
    from rich.console import Console

    from ingot.runtime.bench.lines import append_line, as_lines, new_run, provenance, ratios, read_lines, rivals

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # PyTorch's profiler reads it when it is loaded
    from ingot.runtime.bench.memory import memory_use
    from ingot.runtime.bench.offline import run_workloads
    from ingot.runtime.bench.tables import bars, offline_table, ratio_table, steps_table, subject_text

    run = run or new_run()
    theirs = rivals(read_lines(versus), versus_run or run) if versus else []
    shown, console = Console(stderr=True), Console()
    with shown.status("loading"):
        subject = open_subject(**subject_words)
    shown.print(subject_text(subject), highlight=False)
    head = {"run": run, "engine": "ingot", "mode": subject.mode, "quant": subject.quant}
    load_s = round(subject.load_seconds, 1)
    tail = {"ceilings": subject.ceilings.line(), "load_s": load_s, **provenance(device_name(subject))}
    results, lines = [], []
    with bars(shown) as progress:
        tasks = {one: progress.add_task(str(one), total=one.requests * one.osl) for one in workloads}
        advance = lambda workload, tokens: progress.advance(tasks[workload], tokens)
        for result in run_workloads(subject, workloads, breakdown=breakdown, advance=advance):
            results.append(result)
            lines.append(head | result.line() | tail)
            if output:
                append_line(output, lines[-1])
    use = memory_use()
    subject.program.close()
    console.print(offline_table(results))
    if breakdown:
        console.print(steps_table(results))
    if use:
        console.print(str(use), highlight=False)
    if theirs:
        console.print(ratio_table(ratios(as_lines(lines), theirs)))
    for line in lines:
        click.echo(json.dumps(line))


@bench.command()
@subject_options
@click.option("--conversations", type=click.IntRange(1), default=20, show_default=True)
@click.option("--turns", type=click.IntRange(1), default=8, show_default=True, help="Of each conversation.")
@click.option(
    "--system", type=click.IntRange(1), default=1024, show_default=True, help="Tokens of the prompt that all share."
)
@click.option("--question", type=click.IntRange(1), default=64, show_default=True, help="Tokens of one.")
@click.option("--answer", type=click.IntRange(1), default=64, show_default=True, help="Tokens of one.")
@result_options
def chat(
    conversations: int,
    turns: int,
    system: int,
    question: int,
    answer: int,
    run: str | None,
    output: Path | None,
    **subject_words: Any,
) -> None:
    """Time chats of several turns, with the prefix cache and without.

    Every turn's prompt holds all turns before it. Last line: JSON.
    """
    from rich.console import Console

    from ingot.runtime.bench.chat import Chats, measure_chats
    from ingot.runtime.bench.lines import new_run, provenance
    from ingot.runtime.bench.tables import bars, chat_table, subject_text

    shown = Console(stderr=True)
    chats = Chats(conversations=conversations, turns=turns, system=system, question=question, answer=answer)
    with shown.status("loading"):
        subject = open_subject(**subject_words)
    shown.print(subject_text(subject), highlight=False)
    with bars(shown) as progress:
        task = progress.add_task("chats", total=2 * chats.rounds)
        result = measure_chats(subject, chats, lambda: progress.advance(task))
    subject.program.close()
    Console().print(chat_table(result))
    head = {"run": run or new_run(), "engine": "ingot", "mode": subject.mode, "quant": subject.quant}
    publish(head | result.line() | provenance(device_name(subject)), output)


@bench.command()
@click.argument("engine", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--runs", type=click.IntRange(1, 10), default=1, show_default=True, help="How often.")
@click.option(
    "--cold", is_flag=True, help="As on a new machine: its files on the disk alone, no kernels compiled before."
)
@result_options
def start(engine: Path, runs: int, cold: bool, run: str | None, output: Path | None) -> None:
    """Time a fresh process from ENGINE's folder to its first token.

    Shows the phases, and how much of the GPU's memory is in use in the end, against the planned share. Last line: JSON, of the last run.
    """
    from rich.console import Console

    from ingot.runtime.bench.lines import new_run, provenance
    from ingot.runtime.bench.start import measure_start
    from ingot.runtime.bench.tables import start_table

    console, found = Console(), []
    for number in range(runs):
        with Console(stderr=True).status(f"start {number + 1} of {runs}"):
            found.append(measure_start(engine, cold=cold))
    console.print(start_table(found))
    if found[-1].report.told:
        console.print(found[-1].report.told, highlight=False)
    head = {"run": run or new_run(), "engine": "ingot"}
    for one in found:
        publish(head | one.line() | {"cold": cold} | provenance(one.report.device), output)


def publish(line: dict[str, Any], output: Path | None) -> None:
    from ingot.runtime.bench.lines import append_line

    if output:
        append_line(output, line)
    click.echo(json.dumps(line))


def device_name(subject: Subject) -> str:
    """The GPU's; empty on a CPU."""
    import torch

    return torch.cuda.get_device_name() if subject.device.type == "cuda" else ""
