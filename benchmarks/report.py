"""The pages' figures, written from benchmarks/results/: python benchmarks/report.py [--check].

Every figure stands between two markers in its page, so that none can be typed in by hand; the plot is docs/h200.svg.
A test runs --check.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
from plot import Bar, Group, draw

from ingot.runtime.bench.lines import OURS, as_lines, counted
from ingot.runtime.bench.lines import Line as Offline

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PLOT = ROOT / "docs" / "h200.svg"
MODES = {"bf16": "bf16", "fp8kv": "fp8 + fp8 KV"}
COLOURS = {"bf16": ("#1f6feb", "#a5c4ee"), "fp8kv": ("#2da44e", "#aad7b7")}  # ours, another's

Line = dict[str, Any]
Sides = dict[tuple[str, str, str], Offline]  # workload, mode, engine -> line


def read(file: str) -> list[Line]:
    path = RESULTS / file
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def newest(file: str) -> dict[str, Line]:
    """The last line of each benchmark in a results file."""
    return {line["benchmark"]: line for line in read(file)}


def cpu_table() -> str:
    found = newest("cpu.jsonl")
    transformers, chat, scheduler = found["transformers"], found["chat"], found["scheduler"]
    structured, vocabulary = found["structured"], found["vocabulary"]
    rows = [
        (
            "64 requests of mixed lengths, against transformers' generate() one by one",
            f"{transformers['speedup_vs_transformers']:.1f} x ({transformers['output_tok_s']:,.0f} tokens/s)",
            transformers["command"],
        ),
        (chat_text(chat), f"{chat['prefix_hit_rate']:.0%}, {chat['speedup']:.2f} x", chat["command"]),
        (
            "schedule + settle with 1,024 running sequences, median",
            f"{scheduler['step_ms_p50']:.2f} ms",
            scheduler["command"],
        ),
        (
            "a 10,000-token prompt found in a warm prefix tree, median",
            f"{scheduler['prefix_match_ms_p50']:.2f} ms",
            scheduler["command"],
        ),
        (
            "a JSON schema on each of 64 streams, of throughput",
            f"{structured['schema_cost']:.1%}",
            structured["command"],
        ),
        (
            "how much longer the longest step is beside a schema that cannot be compiled, a grammar that cannot be followed",
            f"{max(0, structured['hostile_compile_steps']):.1f}, {max(0, structured['hostile_follow_steps']):.1f} steps",
            structured["command"],
        ),
        (
            f"masks of 64 streams with {vocabulary['size']:,} tokens, beside sampling them",
            f"{vocabulary['step_ms']['schema'] - vocabulary['step_ms']['free']:.0f} ms, {vocabulary['step_ms']['free']:.0f} ms",
            vocabulary["command"],
        ),
    ]
    return measured("what (2 CPU cores)", rows)


def chat_text(line: Line) -> str:
    return f"prefix cache, {line['conversations']} chats of {line['turns']} turns: prompt tokens found, speed-up"


def measured(what: str, rows: list[tuple[str, str, str]]) -> str:
    lines = [f"| {what} | measured | command |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {text} | {figure} | `{command}` |" for text, figure, command in rows)])


def offline_runs() -> list[Sides]:
    """The lines of every run that two engines took part in, the newest first; before there is one, our newest of each workload."""
    lines = as_lines(read("h200-llama-3.1-8b.jsonl"))
    engines: dict[str, set[str]] = {}
    for line in lines:
        engines.setdefault(line.run, set()).add(line.engine)
    shared = [run for run, found in engines.items() if len(found) > 1]
    chosen = [[line for line in lines if line.run == run] for run in reversed(shared)] or [lines]
    return [{(line.key[1], line.mode, line.engine): line for line in counted(run)} for run in chosen]


def run_of(sides: Sides) -> str:
    return f"`{next(iter(sides.values())).run}`"


def quant_text(quant: str, engine: str) -> str:
    """Lines without the field are of when FP8 was this alone."""
    return quant or ("fp8-dynamic" if engine == OURS else "fp8 online")


def fp8_text(runs: list[Sides]) -> str:
    """What FP8 was on each side, and in which runs."""
    found: dict[str, list[str]] = {}
    for sides in runs:
        ways: dict[str, set[str]] = {}
        for (_, mode, engine), line in sides.items():
            if mode == "fp8kv":
                ways.setdefault(engine, set()).add(quant_text(line.quant, engine))
        text = " against ".join(" or ".join(sorted(ways[engine])) for engine in sorted(ways))
        found.setdefault(text, []).append(run_of(sides))
    return "; ".join(f"{text} in {', '.join(names)}" for text, names in found.items() if text)


def h200_table() -> str:
    """Both modes side by side, and the other engine's figures where it took part."""
    sides, *before = offline_runs()
    others = sorted({engine for _, _, engine in sides} - {OURS})
    columns = ["ISL/OSL x requests"]
    ratio = "ratio (runs before)" if before else "ratio"
    for name in MODES.values():
        columns += [f"{name}, tokens/s", "of the limit"] + [text for other in others for text in (other, ratio)]
    rows = [columns, ["---"] * len(columns)]
    for workload in dict.fromkeys(workload for workload, _, _ in sides):
        cells = [workload]
        for mode in MODES:
            cells += mode_cells(sides, before, workload, mode, others)
        rows.append(cells)
    parts = ["\n".join(f"| {' | '.join(row)} |" for row in rows)]
    if others:
        told = f"Both sides on one machine, run {run_of(sides)}; of several ways of another engine, the fastest."
        fp8 = fp8_text([sides, *before])
        parts.append(f"{told} FP8 was {fp8}." if fp8 else told)
    more = h200_rows()
    return "\n\n".join([*parts, measured("on a GPU of that host", more)] if more else parts)


def mode_cells(sides: Sides, before: list[Sides], workload: str, mode: str, others: list[str]) -> list[str]:
    ours = sides.get((workload, mode, OURS))
    cells = [f"{ours.output_tok_s:,.0f}", f"{share(ours, ours):.0%}"] if ours else ["", ""]
    for other in others:
        theirs = sides.get((workload, mode, other))
        cells.append(f"{theirs.output_tok_s:,.0f}" if theirs else "")
        past = ", ".join(filter(None, (ratio_text(run, workload, mode, other) for run in before)))
        cells.append(ratio_text(sides, workload, mode, other) + (f" ({past})" if past else ""))
    return cells


def ratio_text(sides: Sides, workload: str, mode: str, other: str) -> str:
    ours, theirs = sides.get((workload, mode, OURS)), sides.get((workload, mode, other))
    return f"{ours.output_tok_s / theirs.output_tok_s:.2f}" if ours and theirs else ""


def share(line: Offline, ours: Offline) -> float:
    """Of the limit that our line has."""
    return line.output_tok_s / ours.limit_tok_s if ours.limit_tok_s else 0.0


def h200_rows() -> list[tuple[str, str, str]]:
    """Chats and starts, once they are measured."""
    lines, rows = read("h200-serving.jsonl"), []
    found = {(line["benchmark"], line.get("cold", False)): line for line in lines}
    if chat := found.get(("chat", False)):
        quant = f", {quant_text(chat.get('quant', ''), OURS)}" if "fp8" in chat["mode"] else ""
        rows.append(
            (chat_text(chat) + quant, f"{chat['prefix_hit_rate']:.0%}, {chat['speedup']:.2f} x", chat["command"])
        )
    for cold, where in ((True, "a new machine"), (False, "a machine that has run it")):
        if start := found.get(("start", cold)):
            rows.append((f"engine folder to first token, on {where}", f"{start['seconds']:.1f} s", start["command"]))
    if start := found.get(("start", False)) or found.get(("start", True)):
        rows.append(("GPU memory in use, of 0.9 of the card", f"{start['memory']['of_aim']:.1%}", start["command"]))
    return rows


def h200_plot() -> str:
    """Shares of the limit of one run: ours, and other engines' by our limit."""
    sides = offline_runs()[0]
    engines = [OURS, *sorted({engine for _, _, engine in sides} - {OURS})]
    groups = []
    for workload in dict.fromkeys(workload for workload, _, _ in sides):
        bars = [
            plot_bar(sides[workload, mode, engine], sides[workload, mode, OURS])
            for mode in MODES
            for engine in engines
            if {(workload, mode, engine), (workload, mode, OURS)} <= sides.keys()
        ]
        groups.append(Group(name=workload, bars=bars))
    title = "Llama-3.1-8B's shape on one H200: share of the machine's limit, and output tokens/s"
    return draw(title, groups)


def plot_bar(line: Offline, ours: Offline) -> Bar:
    colour = COLOURS[line.mode][line.engine != OURS]
    label = f"{line.output_tok_s:,.0f}"
    return Bar(series=f"{line.engine}, {MODES[line.mode]}", colour=colour, value=share(line, ours), label=label)


def triton_table() -> str:
    found = newest("cpu.jsonl")["triton_overhead"]
    lines = [
        f"| {found['streams']} streams, steps of 20 ms, 2 CPU cores | tokens/s | TTFT p50 | TTFT p99 | ITL p50 |",
        "|---|---|---|---|---|",
    ]
    for name, one in (("`ingot serve ENGINE`", found["embedded"]), ("`ingot serve --triton`", found["triton"])):
        times = " | ".join(f"{one[key]:.1f} ms" for key in ("ttft_ms_p50", "ttft_ms_p99", "itl_ms_p50"))
        lines.append(f"| {name} | {one['output_tok_s']:,.0f} | {times} |")
    lines.append(f"| kept, added | {found['kept']:.0%} | {found['added_ttft_ms_p50']:+.1f} ms | | |")
    lines += ["", f"`{found['command']}`, {found['at'][:10]}. Client, front, Triton and model share the two cores."]
    return "\n".join(lines)


def soak_table() -> str:
    """What became of the requests of the newest soak, and what its processes took."""
    soak = newest("cpu.jsonl")["soak"]
    head = (
        f"`{soak['command']}`, {soak['at'][:10]}: {soak['requests']:,} requests in {soak['seconds'] / 60:.0f} minutes, "
        f"up to {soak['most_running']:.0f} sequences running and {soak['most_waiting']:.0f} waiting; "
        f"{soak['faults']} {'fault' if soak['faults'] == 1 else 'faults'}."
    )
    lines = [head, "", "| requests | outcomes |", "|---|---|"]
    for kind, outcomes in soak["outcomes"].items():
        lines.append(f"| {kind} | {', '.join(f'{number:,} {outcome}' for outcome, number in outcomes.items())} |")
    lines += ["", "| process | mean, MiB | MiB a minute | growth, MiB | bound, MiB |", "|---|---|---|---|---|"]
    for role, line in soak["memory"].items():
        lines.append(f"| {role} | {' | '.join(f'{value:.2f}' for value in line.values())} |")
    return "\n".join(lines)


SECTIONS = {
    "docs/security.md": {"soak": soak_table},
    "README.md": {"cpu": cpu_table, "h200": h200_table},
    "docs/triton.md": {"triton": triton_table},
}


def render(page: str, text: str) -> str:
    """The page with every section between `<!-- figures: NAME -->` and `<!-- end -->` written anew."""
    for name, table in SECTIONS[page].items():
        start, end = f"<!-- figures: {name} -->\n", "<!-- end -->"
        pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(text):
            raise click.ClickException(f"{page} has no section {start.strip()}")
        section = f"{start}{table()}\n{end}"
        text = pattern.sub(lambda _, section=section: section, text)  # type: ignore[misc]
    return text


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; fail where a page or the plot differs.")
def main(check: bool) -> None:
    """Writes the pages' figures and the plot from benchmarks/results/."""
    pages = {ROOT / page: render(page, (ROOT / page).read_text()) for page in SECTIONS}
    for path, text in (pages | {PLOT: h200_plot()}).items():
        if check and (not path.exists() or path.read_text() != text):
            raise click.ClickException(f"{path.name}'s figures are not those of benchmarks/results/. Run: make figures")
        path.write_text(text)


if __name__ == "__main__":
    main()
