"""The pages' figures, written from benchmarks/results/: python benchmarks/report.py [--check].

Every figure stands between two markers in its page, so that none can be typed in by hand; a test runs --check.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def newest(file: str) -> dict[str, dict[str, Any]]:
    """The last line of each benchmark in a results file."""
    lines = [json.loads(line) for line in (RESULTS / file).read_text().splitlines()]
    return {line["benchmark"]: line for line in lines}


def cpu_table() -> str:
    found = newest("cpu.jsonl")
    offline, scheduler = found["offline"], found["scheduler"]
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


SECTIONS = {
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
@click.option("--check", is_flag=True, help="Change nothing; fail where a page differs.")
def main(check: bool) -> None:
    """Writes the pages' figures from benchmarks/results/."""
    for page in SECTIONS:
        text = (ROOT / page).read_text()
        rendered = render(page, text)
        if check and rendered != text:
            raise click.ClickException(f"{page}'s figures are not those of benchmarks/results/. Run: make figures")
        (ROOT / page).write_text(rendered)


if __name__ == "__main__":
    main()
