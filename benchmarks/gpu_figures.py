"""All figures of one NVIDIA GPU, piece by piece: python benchmarks/gpu_figures.py --config DIR [--vllm SITE] [PIECE...].

Prints what the pieces will take before it starts. Every piece is a command of its own that writes its results as they
come, so that whatever ends the run early takes little with it; --run gives a later run the same id. A piece that fails is
told in the end and stops none but those that need it.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from ingot.runtime.bench.lines import new_run

LONGEST_SECONDS = 590
LATE = 124  # exit code of a piece that ran into its limit
ENGINE = "engines/random-fp8-kvfp8"
WEIGHTS, WEIGHTS_FP8 = "engines/random-checkpoint", "engines/random-checkpoint-fp8"
PYTEST = "python -m pytest -q -m gpu -p no:cacheprovider"
SMOKE = "test_triton_decode or test_cuda_decode or test_skinny or (test_the_gpu_answers and (none-auto or fp8-dynamic))"
BENCH = "python -m ingot.cli bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    name: str
    what: str
    minutes: float  # estimated, on an H200
    command: str
    needs: str = ""  # an option without which it is left out


# In the order of what is worth most when time runs out. `{results}` is a folder, `{run}` the id that the sides share.
PIECES = (
    Piece(name="smoke", what="answers and kernels are right", minutes=3,
          command=f"{PYTEST} -x tests/plugins tests/e2e/test_cuda_engine.py -k {shlex.quote(SMOKE)}"),
    Piece(name="bf16", what="our side, bf16", minutes=2.5, needs="config",
          command=f"{BENCH} offline --random-weights {{config}} --run {{run}} --output {{results}}/{{offline}}"),
    Piece(name="fp8kv", what="our side, fp8 + fp8 KV", minutes=2, needs="config",
          command=f"{BENCH} offline --random-weights {{config}} --quant fp8 --kv fp8 --run {{run}} --output {{results}}/{{offline}}"),
    Piece(name="weights", what="our side's random weights as a checkpoint for vLLM", minutes=0.5, needs="vllm",
          command=f"python benchmarks/random_checkpoint.py {{config}} -o {WEIGHTS}"),
    Piece(name="weights-fp8", what="the same with static scales, in FP8", minutes=0.5, needs="vllm",
          command=f"python benchmarks/random_checkpoint.py {{config}} -o {WEIGHTS_FP8} --quant fp8"),
    Piece(name="vllm-bf16", what="vLLM, bf16, after weights: 192 s to start, 92 s of work", minutes=5, needs="vllm",
          command=f"python benchmarks/versus_vllm.py --site {{vllm}} --model {WEIGHTS} --modes bf16 --run {{run}} --output {{results}}/{{offline}}"),
    Piece(name="vllm-fp8kv-checkpoint", what="vLLM, fp8 of a checkpoint + fp8 KV, after weights-fp8", minutes=4.7, needs="vllm",
          command=f"python benchmarks/versus_vllm.py --site {{vllm}} --model {WEIGHTS_FP8} --modes fp8kv-checkpoint --run {{run}} --output {{results}}/{{offline}}"),
    Piece(name="vllm-fp8kv", what="vLLM, fp8 online + fp8 KV, after weights: 191 s to start, 70 s of work", minutes=4.7, needs="vllm",
          command=f"python benchmarks/versus_vllm.py --site {{vllm}} --model {WEIGHTS} --modes fp8kv --run {{run}} --output {{results}}/{{offline}}"),
    Piece(name="fp8dynamic", what="our side, fp8 with inputs rounded per token + fp8 KV", minutes=2, needs="config",
          command=f"{BENCH} offline --random-weights {{config}} --quant fp8-dynamic --kv fp8 --run {{run}} --output {{results}}/{{offline}}"),
    Piece(name="chat", what="20 chats of 8 turns, prefix cache on and off", minutes=1, needs="config",
          command=f"{BENCH} chat --random-weights {{config}} --quant fp8 --kv fp8 --run {{run}} --output {{results}}/h200-serving.jsonl"),
    Piece(name="engine", what="an engine folder with random weights", minutes=1.5, needs="config",
          command=f"python benchmarks/random_engine.py {{config}} -o {ENGINE} --quant fp8 --kv fp8"),
    Piece(name="cold-start", what="its first token, as on a new machine", minutes=1,
          command=f"{BENCH} start {ENGINE} --cold --run {{run}} --output {{results}}/h200-serving.jsonl"),
    Piece(name="start", what="its first token, on a machine that has run it", minutes=0.5,
          command=f"{BENCH} start {ENGINE} --run {{run}} --output {{results}}/h200-serving.jsonl"),
    Piece(name="kernels", what="attention and linears, one by one", minutes=4,
          command="python benchmarks/kernels.py attention gemm"),
)  # fmt: skip
FILES = {"offline": "h200-llama-3.1-8b.jsonl", "kernels": "h200-kernels.jsonl"}


@dataclass(slots=True)
class Outcome:
    piece: Piece
    seconds: float
    code: int


def words(piece: Piece, **values: str) -> list[str]:
    """The piece's command, `python` being the one that runs this."""
    first, *rest = shlex.split(piece.command.format(**values))
    return [sys.executable if first == "python" else first, *rest]


def run_piece(piece: Piece, results: Path, command: list[str], limit: float) -> Outcome:
    """Runs it to its end or its time limit. The kernels' lines go to their file; everything else writes its own."""
    begin = time.monotonic()
    with ExitStack() as stack:
        keep = stack.enter_context((results / FILES["kernels"]).open("a")) if piece.name == "kernels" else None
        process = stack.enter_context(subprocess.Popen(command, stdout=keep, process_group=0))
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = LATE
        finally:  # with all that it started: a server that is left over would keep the GPU's memory
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return Outcome(piece, time.monotonic() - begin, code)


def estimate(pieces: list[Piece], left_out: list[Piece]) -> Table:
    table = Table(
        "piece", "minutes", "what", title=f"About {sum(piece.minutes for piece in pieces):.0f} minutes in all"
    )
    for piece in pieces:
        table.add_row(piece.name, f"{piece.minutes:g}", piece.what)
    for piece in left_out:
        table.add_row(piece.name, "-", f"left out: needs --{piece.needs}")
    return table


@click.command()
@click.argument("names", nargs=-1, metavar="[PIECE]...", type=click.Choice([piece.name for piece in PIECES]))
@click.option(
    "--config", type=click.Path(exists=True, file_okay=False), help="A folder with Llama-3.1-8B's config.json."
)
@click.option("--vllm", type=click.Path(exists=True, file_okay=False), help="The folder of vLLM's packages.")
@click.option("--run", default=new_run, show_default="the time", help="The id that both sides get.")
@click.option(
    "--results", type=click.Path(path_type=Path, file_okay=False), default=Path("benchmarks/results"), show_default=True
)
@click.option("--plan", is_flag=True, help="Print the estimate and the commands; run nothing.")
def main(names: tuple[str, ...], config: str | None, vllm: str | None, run: str, results: Path, plan: bool) -> None:
    """Runs the PIECEs named, or all, in their order."""
    given = {"config": config, "vllm": vllm and config, "": "always"}
    wanted = [piece for piece in PIECES if not names or piece.name in names]
    pieces = [piece for piece in wanted if given[piece.needs]]
    console = Console()
    console.print(f"run {run}", highlight=False)
    console.print(estimate(pieces, [piece for piece in wanted if piece not in pieces]))
    values = {"config": config or "", "vllm": vllm or "", "run": run, "results": str(results), **FILES}
    results.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for piece in pieces:
        command = words(piece, **values)
        console.rule(f"{piece.name}: {shlex.join(command)}", style="dim")
        if not plan:
            outcomes.append(run_piece(piece, results, command, LONGEST_SECONDS))
            console.print(f"{piece.name}: code {outcomes[-1].code}, {outcomes[-1].seconds:.0f} s", highlight=False)
    failed = [one.piece.name for one in outcomes if one.code]
    spent = {one.piece.name: round(one.seconds) for one in outcomes}
    click.echo(json.dumps({"run": run, "seconds": spent, "failed": failed}))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
