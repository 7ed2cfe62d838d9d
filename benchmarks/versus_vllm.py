"""vLLM on the workloads of `ingot bench offline`, as lines of the same form under the same run id:

    python benchmarks/versus_vllm.py --site VLLM_SITE --model DIR --run ID --output FILE [--modes bf16,fp8kv]

VLLM_SITE is the folder that holds the package `vllm` and what it needs (site-packages of its own environment, say).
Mode fp8kv-checkpoint is fp8kv with static scales, for a DIR of `random_checkpoint.py --quant fp8`. Every line is written when
its workload is done, with the limit of our line of that run, mode and workload, if FILE has it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ingot.runtime.bench.commands import DEFAULT
from ingot.runtime.bench.lines import OURS, append_line, as_lines, provenance, ratios, read_lines, rivals
from ingot.runtime.bench.tables import ratio_table

WORKER = Path(__file__).with_name("vllm_offline.py")


def run_mode(command: list[str], site: Path) -> Iterator[dict[str, Any]]:
    """The worker's JSON lines as they come; what else it prints passes on to standard error. Raises ClickException."""
    env = os.environ | {"PYTHONPATH": str(site), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        for text in worker.stdout:
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            if isinstance(line, dict) and "engine" in line:
                yield line
            else:
                click.echo(text.rstrip(), err=True)
    if worker.returncode:
        raise click.ClickException(f"vLLM's process ended with code {worker.returncode}: {shlex.join(command)}")


def limits_of(path: Path, run: str) -> dict[tuple[str, str], float | None]:
    """Our limits by mode and workload: those of the run, else none."""
    lines = read_lines(path) if path.exists() else []
    return {line.key: line.limit_tok_s for line in lines if line.engine == OURS and line.run == run}


@click.command()
@click.option(
    "--site", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), help="vLLM's packages."
)
@click.option("--python", default=sys.executable, show_default="this one", help="The interpreter they are for.")
@click.option(
    "--model", required=True, type=click.Path(exists=True, file_okay=False), help="A folder with a config.json."
)
@click.option("--modes", default="bf16,fp8kv", show_default=True, help="Also fp8 and fp8kv-checkpoint.")
@click.option("--workloads", default=DEFAULT, show_default=True)
@click.option("--run", required=True, help="The id our side has.")
@click.option("--output", required=True, type=click.Path(dir_okay=False, path_type=Path))
def main(site: Path, python: str, model: str, modes: str, workloads: str, run: str, output: Path) -> None:
    """Measures vLLM and prints our ratio to it."""
    limits = limits_of(output, run)
    for mode in modes.split(","):
        # -P: this folder has modules named like packages that vLLM looks for.
        command = [python, "-P", str(WORKER), mode, "--model", model, "--workloads", workloads]
        for found in run_mode(command, site):
            if "output_tok_s" not in found:
                click.echo(json.dumps(found), err=True)
                continue
            line = {"run": run, **found}
            (parsed,) = as_lines([line])
            line["limit_tok_s"] = limits.get(parsed.key)
            versions = {**provenance(gpu_name())["versions"], "vllm": found["engine"].partition("-")[2]}
            line |= {"versions": versions, "command": shlex.join(["python", f"benchmarks/{WORKER.name}", *command[3:]]),
                     "at": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
            append_line(output, line)
            click.echo(json.dumps(line))
    everything = read_lines(output)
    both = ratios((line for line in everything if line.run == run), rivals(everything, run))
    if both:
        Console(stderr=True).print(ratio_table(both))


def gpu_name() -> str:
    """As the driver names it, without a CUDA context beside vLLM's; empty where there is none."""
    if not shutil.which("nvidia-smi"):
        return ""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    names = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    return names[0].strip() if names else ""


if __name__ == "__main__":
    main()
