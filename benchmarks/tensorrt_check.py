"""Proves the TensorRT targets on this machine, a verdict a line: make tensorrt-check.

For each target it builds the bundled model in every scheme that the GPU has, loads the engine as a server does, and asks it
held-out questions: its answers must be those of the cpu target's engine. Before that the attention plugin is held to
the library's own classes, and its kernels to the reference. What cannot run here is said to be not run, which is no failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ingot.builder.build import build_engine
from ingot.builder.recipe import Recipe
from ingot.builder.tensorrt.support import LEAST_SM, SMS, TENSORRT_SCHEMES
from ingot.errors import DependencyError, IngotError
from ingot.network.weights import Scheme
from ingot.plans import read_plans
from ingot.runtime import LLM, SamplingParams
from ingot.runtime.request import Prompt
from ingot.tensorrt_library import LIBRARIES

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "examples" / "tiny"
QUANTS = ("none", "fp8-dynamic", "int8", "int4", "nvfp4")
WITHOUT_GPU = 120  # what TensorRT-RTX's plans are built for where there is no GPU to run them
ASKED = 60  # questions
LEAST_RIGHT = 0.95  # share of the cpu engine's answers that must be given again, word for word
GREEDY = SamplingParams(temperature=0.0, max_tokens=160)
Verdict = tuple[str, str, str]  # what, verdict, detail


def main() -> int:
    failed = 0
    for what, verdict, detail in verdicts():
        print(f"{verdict:<8} {what}: {detail}", flush=True)
        failed += verdict == "FAILED"
    return 1 if failed else 0


def verdicts() -> Iterator[Verdict]:
    sm, name = gpu()
    yield "gpu", "ok" if sm else "NOT RUN", name
    yield tests("plugin contract", "tests/plugins/test_tensorrt_plugin.py", marker="not gpu")
    kernels = "tests/plugins/test_tensorrt_launch.py"
    if sm:
        yield tests("plugin kernels on this GPU", kernels, marker="gpu")
    else:
        yield "plugin kernels on a GPU", "NOT RUN", "no NVIDIA GPU"
    yield tests("plugin kernels, interpreted", kernels, marker="not gpu")
    with tempfile.TemporaryDirectory() as folder:
        check = Check(sm=sm, cache=Path(folder))
        yield from check.target("tensorrt-rtx", runs=sm in SMS)
        yield from check.target("tensorrt", runs=sm > 0)


def gpu() -> tuple[int, str]:
    if not torch.cuda.is_available():
        return 0, "no NVIDIA GPU"
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor, f"{torch.cuda.get_device_name()}, SM {major}.{minor}"


def tests(what: str, path: str, *, marker: str) -> Verdict:
    command = [sys.executable, "-m", "pytest", "-q", "-m", marker, path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return what, "ok" if done.returncode == 0 else "FAILED", (done.stdout.splitlines() or [done.stderr])[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One machine's verdicts on a target after the other."""

    sm: int  # 0: no GPU
    cache: Path

    def target(self, target: str, *, runs: bool) -> Iterator[Verdict]:
        try:
            found = LIBRARIES[target].load().__version__
        except DependencyError as error:
            yield f"{target} library", "NOT RUN", str(error)
            return
        yield f"{target} library", "ok", found
        if target == "tensorrt" and not runs:
            yield f"{target} plans", "NOT RUN", "TensorRT builds for the GPU it runs on, and there is none"
            return
        for quant in QUANTS:
            yield from self.quant(target, quant, self.sm if runs else WITHOUT_GPU, runs=runs)

    def quant(self, target: str, quant: str, sm: int, *, runs: bool) -> Iterator[Verdict]:
        what, scheme = f"{target} {quant}", Scheme(quant.removesuffix("-dynamic"))
        least = (LEAST_SM if target == "tensorrt-rtx" else TENSORRT_SCHEMES).get(scheme, 0)
        if sm < least:
            yield f"{what} plans", "NOT RUN", f"SM {sm / 10} has no {scheme}"
            return
        try:
            engine = self.build(quant, target, str(sm))
            kinds = sorted({kind for plan in read_plans(engine).plans for kind in plan.linears.values()})
            yield f"{what} plans", "ok", f"SM {sm / 10}, products in {', '.join(kinds)}"
            if not runs:
                yield f"{what} answers", "NOT RUN", "no GPU that TensorRT-RTX knows"
                return
            here, truth = answers(engine), answers(self.build(quant, "cpu", None))
        except IngotError as error:
            yield f"{what} engine", "FAILED", str(error)
            return
        same = sum(map(str.__eq__, here, truth))
        detail = f"{same} of {len(truth)} are the cpu engine's, {LEAST_RIGHT:.0%} wanted"
        yield f"{what} answers", "ok" if same >= LEAST_RIGHT * len(truth) else "FAILED", detail

    def build(self, quant: str, target: str, sm: str | None) -> Path:
        recipe = Recipe(
            model=str(TINY),
            out=str(self.cache / f"{target}-{quant}"),
            quant=quant,
            dtype="float32" if target == "cpu" else "float16",
            target=target,
            sm=sm,
            max_num_batched_tokens=256,
            max_num_seqs=16,
            allow_quality_loss=True,
        )
        return build_engine(recipe, cache=self.cache / "cache")


def answers(engine: Path) -> list[str]:
    lines = [json.loads(line) for line in (TINY / "questions.jsonl").read_text().splitlines()]
    prompts = [Prompt(messages=line["messages"]) for line in lines[:: len(lines) // ASKED]]
    with LLM(engine) as llm:
        return [one.text for one in llm.generate(prompts, GREEDY)]


if __name__ == "__main__":
    sys.exit(main())
