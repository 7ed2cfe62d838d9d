"""Proves the TensorRT targets on this machine, a verdict a line: make tensorrt-check.

Builds the bundled model's plans in every scheme that the GPU has and, where TensorRT-RTX knows the GPU, runs two ragged
steps of them against the reference in float32. What cannot run here is said to be not run, and is not a failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ingot.builder.build import build_engine
from ingot.builder.recipe import Recipe
from ingot.builder.tensorrt.support import LEAST_SM, SMS
from ingot.errors import IngotError
from ingot.network.config import ModelConfig
from ingot.network.decoder import decoder
from ingot.network.ops import Batch
from ingot.network.weights import Scheme, Weight
from ingot.plans import read_plans
from ingot.plugins.attention.cache import allocate_caches
from ingot.plugins.load import read_weights
from ingot.plugins.reference_ops import ReferenceOps
from ingot.runtime.programs.plan_forward import PlanForward

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "examples" / "tiny"
QUANTS = ("none", "fp8-dynamic", "int8", "int4", "nvfp4")
PAGE_SIZE, NUM_PAGES = 16, 8
WITHOUT_GPU = 120  # what plans are built for where there is no GPU to run them
# How far logits in float16 with the scheme's own rounding may stray from the same weights in float32, of their spread.
BOUND = {"none": 0.02, "nvfp4": 0.5}
USUAL_BOUND = 0.1


def main() -> int:
    failed = 0
    for what, verdict, detail in verdicts():
        print(f"{verdict:<8} {what}: {detail}", flush=True)
        failed += verdict == "FAILED"
    return 1 if failed else 0


def verdicts() -> Iterator[tuple[str, str, str]]:
    try:
        trt = import_module("tensorrt_rtx")
    except ImportError as error:
        yield "tensorrt_rtx", "NOT RUN", f"{error}; pip install 'ingot[tensorrt-rtx]'"
    else:
        yield "tensorrt_rtx", "ok", trt.__version__
        sm, name = gpu()
        runs = sm in SMS
        yield "gpu", "ok" if runs else "NOT RUN", f"{name}, plans are {'run on it' if runs else 'only built'}"
        for quant in QUANTS:
            yield from rtx_verdicts(trt, quant, sm if runs else WITHOUT_GPU, runs=runs)
    yield plugin_verdict()


def gpu() -> tuple[int, str]:
    if not torch.cuda.is_available():
        return 0, "no NVIDIA GPU"
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor, f"{torch.cuda.get_device_name()}, SM {major}.{minor}"


def rtx_verdicts(trt: object, quant: str, sm: int, *, runs: bool) -> Iterator[tuple[str, str, str]]:
    scheme = Scheme(quant.removesuffix("-dynamic"))
    if sm < LEAST_SM.get(scheme, 0):
        yield f"{quant} plans", "NOT RUN", f"SM {sm / 10} has no {scheme}"
        return
    with tempfile.TemporaryDirectory() as folder:
        engine = Path(folder) / "engine"
        recipe = Recipe(
            model=str(TINY),
            out=str(engine),
            quant=quant,
            dtype="float16",
            target="tensorrt-rtx",
            sm=str(sm),
            max_num_batched_tokens=128,
            max_num_seqs=8,
            max_model_len=128,
        )
        try:
            build_engine(recipe, cache=Path(folder) / "cache")
            kinds = sorted({kind for plan in read_plans(engine).plans for kind in plan.linears.values()})
            yield f"{quant} plans", "ok", f"SM {sm / 10}, every product in {', '.join(kinds)}"
            if not runs:
                yield f"{quant} logits", "NOT RUN", "no GPU that TensorRT-RTX knows"
                return
            stray = difference(trt, engine)
        except IngotError as error:
            yield f"{quant} engine", "FAILED", str(error)
            return
    bound = BOUND.get(quant, USUAL_BOUND)
    yield (
        f"{quant} logits",
        "ok" if stray <= bound else "FAILED",
        f"stray by {stray:.4f} of their spread, bound {bound}",
    )


def difference(trt: object, engine: Path) -> float:
    """Largest over two steps, of the plans' logits on the GPU from the reference's in float32 on the CPU."""
    config = ModelConfig.from_hf(json.loads((engine / "config.json").read_text()))
    tensors = {k: v for path in (engine / "weights").glob("*.safetensors") for k, v in load_file(path).items()}
    weights, gpu_device = read_weights(tensors, config), torch.device("cuda")
    truth = reference(config, weights, torch.float32, torch.device("cpu"))
    floats = {name: weight for name, weight in weights.items() if weight.scheme is Scheme.NONE}
    kernels = reference(
        config, {name: on(weight, gpu_device) for name, weight in floats.items()}, torch.float16, gpu_device
    )
    forward = PlanForward(
        trt,
        engine,
        weights={name: tensor.to(gpu_device) for name, tensor in tensors.items()},
        attention=kernels.attention,
        device=gpu_device,
    )
    strays = []
    for step in steps(config.vocab_size):
        expected = decoder(truth, config, step)
        placed = Batch(**{name: getattr(step, name).to(gpu_device) for name in Batch.__dataclass_fields__})
        found = forward(placed).cpu()
        strays.append(float((found - expected).abs().max() / expected.std()))
    return max(strays)


def reference(
    config: ModelConfig, weights: dict[str, Weight[Tensor]], dtype: torch.dtype, device: torch.device
) -> ReferenceOps:
    return ReferenceOps(config, weights, allocate_caches(config, NUM_PAGES, PAGE_SIZE, dtype, device), dtype=dtype)


def on(weight: Weight[Tensor], device: torch.device) -> Weight[Tensor]:
    return Weight(scheme=weight.scheme, data=weight.data.to(device))


def steps(vocab_size: int) -> list[Batch[Tensor]]:
    """Prompts of 37 and 5 tokens, then one decoded token of the first and 11 more of the second."""
    return [batch([(0, 0, 37), (1, 0, 5)], vocab_size), batch([(0, 37, 1), (1, 5, 11)], vocab_size)]


def batch(parts: list[tuple[int, int, int]], vocab_size: int) -> Batch[Tensor]:
    """parts: (sequence, first position, tokens). Sequence s has pages s, s + 2, s + 4, ..."""
    pairs = [(s, start + i) for s, start, count in parts for i in range(count)]
    starts = torch.tensor([0, *(count for *_, count in parts)]).cumsum(0)
    return Batch(
        token_ids=torch.tensor([(31 * s + 7 * p + 5) % vocab_size for s, p in pairs]),
        positions=torch.tensor([p for _, p in pairs]),
        slots=torch.tensor([(s + 2 * (p // PAGE_SIZE)) * PAGE_SIZE + p % PAGE_SIZE for s, p in pairs]),
        page_table=torch.tensor([[s, s + 2, s + 4] for s, *_ in parts]),
        query_starts=starts,
        kv_lengths=torch.tensor([start + count for _, start, count in parts]),
        logit_rows=starts[1:] - 1,
    )


def plugin_verdict() -> tuple[str, str, str]:
    """The plugin's contract on the classes of the full TensorRT."""
    try:
        version = import_module("tensorrt").__version__
    except (ImportError, OSError, RuntimeError) as error:
        return "tensorrt plugin", "NOT RUN", f"{error}; see docs/tensorrt.md"
    tests = [sys.executable, "-m", "pytest", "-q", "tests/plugins/test_tensorrt_plugin.py"]
    done = subprocess.run(tests, cwd=ROOT, capture_output=True, text=True, check=False)
    return "tensorrt plugin", "ok" if done.returncode == 0 else "FAILED", f"{version}: {done.stdout.splitlines()[-1]}"


if __name__ == "__main__":
    sys.exit(main())
