"""README's figures, written from benchmarks/results/: python benchmarks/report.py [--check].

Every figure stands between two markers in README.md, so that none can be typed in by hand; a test runs --check.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"


def newest(file: str) -> dict[str, dict[str, Any]]:
    """The last line of each benchmark in a results file."""
    lines = [json.loads(line) for line in (RESULTS / file).read_text().splitlines()]
    return {line["benchmark"]: line for line in lines}


def cpu_table() -> str:
    found = newest("cpu.jsonl")
    offline, scheduler = found["offline"], found["scheduler"]
    structured, vocabulary = found["structured"], found["vocabulary"]
    rows = [
        (
            "64 requests of mixed lengths, against transformers' generate() one by one",
            f"{offline['speedup_vs_transformers']:.1f} x ({offline['output_tok_s']:,.0f} tokens/s)",
            offline["command"],
        ),
        (
            "prefix cache on a multi-turn chat: prompt tokens found, time saved",
            f"{offline['prefix_hit_rate']:.0%}, {offline['prefix_time_saved']:.0%}",
            offline["command"],
        ),
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
    lines = ["| what (2 CPU cores) | measured | command |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | `{command}` |" for what, figure, command in rows]
    return "\n".join(lines)


def h200_table() -> str:
    """The newest line of each workload, both modes side by side."""
    path = RESULTS / "h200-llama-3.1-8b.jsonl"
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for line in map(json.loads, path.read_text().splitlines()):
        found[f"{line['isl']}/{line['osl']} x {line['requests']}", line["mode"] == "fp8kv"] = line
    lines = [
        "| ISL/OSL x requests | bf16, tokens/s | of the limit | fp8 + fp8 KV, tokens/s | of the limit |",
        "|---|---|---|---|---|",
    ]
    for workload in dict.fromkeys(name for name, _ in found):
        cells = [
            f"{line['output_tok_s']:,.0f} | {line['share']:.0%}"
            for line in (found[workload, False], found[workload, True])
        ]
        lines.append(f"| {workload} | {' | '.join(cells)} |")
    return "\n".join(lines)


SECTIONS = {"cpu": cpu_table, "h200": h200_table}


def render(readme: str) -> str:
    """The README with every section between `<!-- figures: NAME -->` and `<!-- end -->` written anew."""
    for name, table in SECTIONS.items():
        start, end = f"<!-- figures: {name} -->\n", "<!-- end -->"
        pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(readme):
            raise click.ClickException(f"README.md has no section {start.strip()}")
        text = f"{start}{table()}\n{end}"
        readme = pattern.sub(lambda _, text=text: text, readme)  # type: ignore[misc]
    return readme


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; fail where README.md differs.")
def main(check: bool) -> None:
    """Writes README.md's figures from benchmarks/results/."""
    readme = README.read_text()
    rendered = render(readme)
    if check and rendered != readme:
        raise click.ClickException("README.md's figures are not those of benchmarks/results/. Run: make figures")
    README.write_text(rendered)


if __name__ == "__main__":
    main()
