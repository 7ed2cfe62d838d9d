"""Every way a kernel can run that has not been measured yet, checked and timed on one Hopper GPU in at most 8 minutes.

python benchmarks/gpu_try.py            all sections, each in a process of its own with a time limit; a table last
python benchmarks/gpu_try.py SECTION    one section's JSON lines
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ingot.network.config import ModelConfig
from ingot.network.decoder import decoder
from ingot.network.ops import Ops
from ingot.network.weights import Scheme, Weight
from ingot.plugins import compiling, packed
from ingot.plugins.cuda_ops import CudaOps
from ingot.plugins.linear.bulk import Bulk, bulk_choices
from ingot.plugins.linear.launch import Choice, Choices, Library, Skinny, guess, run_linear
from ingot.plugins.linear.reference import linear
from ingot.plugins.overlap import Overlap
from ingot.plugins.quantize.launch import quantize_rows
from ingot.plugins.random_weights import random_weights
from ingot.plugins.rms_norm.launch import rms_norm
from ingot.plugins.trial import Trial, Verdict, decide, seconds
from ingot.plugins.tune import PrefillCase, decode_batch, prefill_trial, prefill_ways, rotation_trial, silu_trial
from ingot.plugins.tune_rows import preparation_trial
from ingot.plugins.variants import Variants

CONFIG = ModelConfig(
    family="llama", vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_layers=8, num_heads=32, num_kv_heads=8,
    head_dim=128, max_position=8192, rms_norm_eps=1e-5, rope_theta=500_000.0, windows=(0,) * 8,
)  # fmt: skip
PAGE, BF16, FP8 = 32, torch.bfloat16, torch.float8_e4m3fn
MODES = {"bf16": (Scheme.NONE, BF16), "fp8": (Scheme.FP8, FP8)}
ALL_SECONDS = 450
# What each way should gain over the usual one, as a ratio of times, and for which workloads it matters.
PREDICTED = {
    "prefill": "1.5-1.9 (prefill.cu)",
    "silu_mul": "1.3 at 8192 rows",
    "rotation in attention": "1.2 of rope + attention at 16 rows",
    "step: late overlap": "1.03-1.07 at 16 rows, 1.02 at 64",
    "step: rotation": "1.015-1.02 at 1 and 16 rows",
    "step: prepared": "1.03-1.04 at 1 row in fp8, 1.015 in bf16; other sizes the same",
    "step: all": "1.05 at 1 row in fp8, 1.05-1.08 at 16",
    "linears that prepare 1 rows": "1.1 in fp8, 1.04 in bf16",
    "linears that prepare 2 rows": "1.1 in fp8, 1.04 in bf16",
    "linears that prepare 4 rows": "1.05 in fp8, 1.0 in bf16",
    "step: ahead": "1.02-1.05 at 16 rows",
    "step: bulk": "1.06-1.09 at 16 rows in fp8, 1.03-1.05 in bf16",
    "step: bulk ahead": "1.12-1.18 at 16 rows in fp8, 1.06-1.09 in bf16",
    "pack": "same numbers; a launch in 12 us",
}
# Microseconds of bulk.cu at 1-8, 16 and 32 rows: the bytes at 4.2 TB/s and 2 more, a little for x at 32.
SHAPES = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)}
PREDICTED_BULK = {
    "fp8 qkv": (8.0, 8.1, 8.6),
    "fp8 o": (6.0, 6.1, 6.5),
    "fp8 gate_up": (30.0, 30.3, 31.5),
    "fp8 down": (16.0, 16.3, 17.5),
    "bf16 qkv": (14.0, 14.2, 15.0),
    "bf16 o": (10.0, 10.2, 10.8),
    "bf16 gate_up": (58.0, 58.5, 60.0),
    "bf16 down": (30.0, 30.5, 32.0),
}


def line(
    name: str, case: str, way: object, usual_us: float, us: float, error: float, usual_error: float
) -> dict[str, Any]:
    right = error <= 2 * usual_error + 1e-6
    return {"name": name, "case": case, "way": str(way), "usual_us": round(usual_us, 2), "us": round(us, 2),
            "gain": round(usual_us / us, 3) if us else 0.0, "right": right, "error": error, "usual_error": usual_error}  # fmt: skip


def told(trial: Trial[object], case: str, *, calls: int = 1) -> Iterator[dict[str, Any]]:
    """A line a way; microseconds are of one of `calls` that a run makes."""
    verdict: Verdict[object] = decide(trial)
    usual = trial.ways[0]
    for way in trial.ways:
        took = verdict.seconds.get(way, 0.0)
        yield line(
            trial.name,
            case,
            way,
            verdict.seconds[usual] / calls * 1e6,
            took / calls * 1e6,
            verdict.errors[way],
            verdict.errors[usual],
        )


def prefill() -> Iterator[dict[str, Any]]:
    for mode, (_, kv) in MODES.items():
        usual_trial = prefill_trial(CONFIG, BF16, kv, PAGE, 8192)
        for seqs, count, length in ((4, 2048, 2048), (8, 1024, 1024), (1, 2048, 8192), (64, 128, 128)):
            large = PrefillCase(CONFIG, BF16, kv, PAGE, [count] * seqs, [length] * seqs)
            ways = prefill_ways(large)
            yield from told(replace(usual_trial, ways=ways, run=large.run), f"{mode} {seqs}x{count}/{length}")
            del large
            torch.cuda.empty_cache()


def silu() -> Iterator[dict[str, Any]]:
    for mode, (scheme, _) in MODES.items():
        for rows in (8192, 1024):
            reader = Weight(scheme=scheme, data=torch.empty(0, device="cuda"))
            yield from told(silu_trial(CONFIG, reader, BF16, rows), f"{mode} {rows} rows")


def rotation() -> Iterator[dict[str, Any]]:
    for mode, (_, kv) in MODES.items():
        yield from told(rotation_trial(CONFIG, BF16, kv, PAGE), f"{mode} 16x384")


def preparation() -> Iterator[dict[str, Any]]:
    for mode, (scheme, _) in MODES.items():
        weights = random_weights(CONFIG, scheme, BF16, torch.device("cuda"))
        for rows in (1, 2, 4):
            yield from told(preparation_trial(CONFIG, weights, Choices(tuned={}), BF16, rows), f"{mode} {rows} rows")
        del weights
        torch.cuda.empty_cache()


def bulk() -> Iterator[dict[str, Any]]:
    """Eight layers' weights in turn, which no L2 holds. The first way is what the tuner has measured as the best of the others."""
    for mode, (scheme, _) in MODES.items():
        weights = random_weights(CONFIG, scheme, BF16, torch.device("cuda"))
        for kind in SHAPES:
            same = [weights[f"layers.{layer}.{kind}"] for layer in range(CONFIG.num_layers)]
            for rows in (1, 8, 16, 32):
                yield from told(bulk_trial(mode, kind, same, rows), f"{mode} {kind} {rows} rows", calls=len(same))
        del weights
        torch.cuda.empty_cache()


def bulk_trial(mode: str, kind: str, same: list[Weight[torch.Tensor]], rows: int) -> Trial[object]:
    scheme, (n, k) = MODES[mode][0], SHAPES[kind]
    given = torch.randn(rows, k, device="cuda").to(BF16)
    x = quantize_rows(given, same[0]) if scheme is Scheme.FP8 else given
    tiles = (1, 2) if rows > 8 else (1,)
    usual: list[Choice] = [
        guess(scheme, n, k, rows),
        Library(),
        *(Skinny(warps=w, tiles=t) for w in (4, 8, 16) for t in tiles),
    ]
    mine = bulk_choices(rows, n, k * (2 if scheme is Scheme.NONE else 1))
    mine += [replace(way, groups=1) for way in mine if way.groups == 2 and way.cluster == 4]

    def call(way: object, weight: Weight[torch.Tensor]) -> torch.Tensor:
        assert isinstance(way, Choice)
        return run_linear(x, weight, way, out_dtype=BF16)

    return Trial(
        name=f"linear of {rows} rows",
        ways=list(dict.fromkeys([*usual, *mine])),
        check=lambda way: call(way, same[0]),
        truth=linear(given.float(), same[0]),
        run=lambda way: [call(way, weight) for weight in same],
    )


def foretold(one: dict[str, Any]) -> str:
    if not one["way"].startswith("Bulk"):
        return PREDICTED.get(one["name"], "")
    mode, kind, rows, _ = one["case"].split()
    return f"{PREDICTED_BULK[f'{mode} {kind}'][0 if int(rows) <= 8 else 1 if int(rows) <= 16 else 2]} us by the best of them"


STEPS = {
    "usual": Variants(),
    "step: ahead": Variants(overlap=Overlap(ahead=64)),
    "step: bulk": Variants(),
    "step: bulk ahead": Variants(overlap=Overlap(ahead=64)),
    "step: late overlap": Variants(overlap=Overlap(late=64)),
    "step: rotation": Variants(rotate_in_attention=True),
    "step: prepared": Variants(prepared_rows=4),
    "step: all": Variants(overlap=Overlap(late=64), rotate_in_attention=True, prepared_rows=4),
}


def all_bulk(scheme: Scheme) -> dict[tuple[str, int, int, int], Choice]:
    return {(scheme.value, n, k, rows): Bulk() for n, k in SHAPES.values() for rows in (1, 16)}


def step() -> Iterator[dict[str, Any]]:
    """Decode steps of eight layers; the error is the distance of the logits from the usual step's in float32's norm."""
    for mode, (scheme, kv) in MODES.items():
        weights = random_weights(CONFIG, scheme, BF16, torch.device("cuda"))
        for rows in (1, 16, 64):
            batch = decode_batch(CONFIG, rows, 384, PAGE, kv)
            shape = (2, rows * 12, CONFIG.num_kv_heads, PAGE, CONFIG.head_dim)
            caches = [torch.randn(shape, device="cuda", dtype=BF16).to(kv) for _ in range(CONFIG.num_layers)]
            usual, took = torch.empty(0), 0.0
            for name, variants in STEPS.items():
                tuned = all_bulk(scheme) if "bulk" in name else {}
                ops = CudaOps(CONFIG, weights, caches, dtype=BF16, choices=Choices(tuned=tuned, variants=variants))
                interpreter: Ops[Any] = ops
                call = lambda interpreter=interpreter, batch=batch: decoder(interpreter, CONFIG, batch)
                logits: torch.Tensor = call()
                now = min(seconds(call), seconds(call))
                if name == "usual":
                    usual, took = logits, now
                    continue
                error = ((logits - usual).norm() / usual.norm()).item()
                yield line(name, f"{mode} {rows} rows", "", took * 1e6, now * 1e6, error, 0.01)


def pack() -> Iterator[dict[str, Any]]:
    """A kernel through Triton and from a pack: equal numbers, and the host's time for a launch."""
    x, weight = torch.randn(64, 4096, device="cuda").to(BF16), torch.randn(4096, device="cuda").to(BF16)
    call = lambda: rms_norm(x, None, weight, 1e-5, None)
    first = call()
    usual = host_seconds(call)
    with tempfile.TemporaryDirectory() as folder:
        with packed.recording(Path(folder)):
            call()
        packed.use_pack(Path(folder))
        with compiling.refused():
            again = call()
            took = host_seconds(call)
    assert isinstance(first, torch.Tensor)
    assert isinstance(again, torch.Tensor)
    yield line("pack", "norm, host time", "", usual * 1e6, took * 1e6, float(not torch.equal(first, again)), 0.0)


def host_seconds(call: Callable[[], object], times: int = 300) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(times):
        call()
    took = (time.perf_counter() - begin) / times
    torch.cuda.synchronize()
    return took


SECTIONS: dict[str, tuple[Callable[[], Iterator[dict[str, Any]]], int]] = {  # and the seconds each may take
    "pack": (pack, 60),
    "rotation": (rotation, 90),
    "silu": (silu, 90),
    "prefill": (prefill, 150),
    "preparation": (preparation, 90),
    "bulk": (bulk, 150),
    "step": (step, 180),
}


def in_own_process(section: str, limit: float) -> tuple[list[dict[str, Any]], str]:
    """A kernel that hangs or breaks the context takes its section with it, and no other."""
    command = [sys.executable, __file__, section]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            code: object = subprocess.run(command, stdout=out, stderr=err, check=False, timeout=limit).returncode
        except subprocess.TimeoutExpired:
            code = f"cut off after {limit:.0f} s"
        out.seek(0)
        err.seek(0)
        lines = [json.loads(text) for text in out.read().splitlines() if text.startswith("{")]
        return lines, "" if code == 0 else f"{section}: {code}: {err.read().strip()[-400:]}"


def main() -> None:
    begin, found, broken = time.monotonic(), [], []
    for section, (_, limit) in SECTIONS.items():
        left = ALL_SECONDS - (time.monotonic() - begin)
        lines, trouble = in_own_process(section, max(1.0, min(limit, left)))
        found += lines
        broken += [trouble] if trouble else []
    path = Path(os.environ.get("OUT", ".")) / "gpu-try.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in found))
    print(f"{'case':24} {'way':62} {'usual us':>9} {'us':>9} {'gain':>6} right  predicted")
    for one in found:
        mark = "yes" if one["right"] else "NO "
        way = one["way"].replace("PrefillChoice", "").replace("SiluChoice", "")
        print(
            f"{one['case']:24} {(one['name'] + ' ' + way)[:62]:62} {one['usual_us']:9} {one['us']:9} {one['gain']:6} {mark}   "
            f"{foretold(one)}"
        )
    print("\n".join(broken) or f"every section ran to its end; {path}")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        with torch.inference_mode():
            for one in SECTIONS[sys.argv[1]][0]():
                print(json.dumps(one), flush=True)
