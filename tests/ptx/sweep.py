"""Random shapes of every CUDA C++ kernel in the interpreter, in random orders of threads: python -m tests.ptx.sweep [SECONDS] [KERNEL...].

Prints a line a case; ends with exit code 1 at the first case that is wrong, which its seed brings again.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable

import torch

os.environ.setdefault("TRITON_INTERPRET", "1")

from tests.exactness import assert_as_exact_as_torch
from tests.plugins.test_attention_kernels import make_case, run_decode, run_prefill
from tests.plugins.test_attention_ptx import check_rotating_decode, check_rotating_prefill
from tests.plugins.test_linear_kernels import check, check_gated
from tests.ptx.launch import Setting, interpreted

from ingot.network.weights import Scheme
from ingot.plugins.attention.launch import DecodeChoice
from ingot.plugins.attention.prefill import PrefillChoice
from ingot.plugins.linear.launch import Skinny

BF16, CPU = torch.bfloat16, torch.device("cpu")


def run_prompts(any_: random.Random, setting: Setting) -> str:
    group, kv_heads = any_.choice([1, 2, 3, 4, 7, 8]), any_.choice([1, 2])
    page, window, fp8 = any_.choice([16, 32, 64, 128, 256]), any_.choice([0, 0, 1, 50, 200]), any_.random() < 0.5
    counts = [any_.choice([1, 5, 31, 64, 150 // group]) for _ in range(any_.randint(1, 3))]
    lengths = [count + any_.choice([0, 0, 3, 127, 260]) for count in counts]
    setting.processors, spare = any_.choice([1, 2, 7]), any_.choice([0, 0, 1, 5])
    text = f"group {group} x {kv_heads}, page {page}, window {window}, fp8 {fp8}, {counts} of {lengths}, spare {spare}, {setting}"
    heads = (group * kv_heads, kv_heads)
    case = make_case(CPU, BF16, counts, lengths, heads=heads, dim=128, page=page, window=window, fp8=fp8)
    found = run_prefill(case, spare=spare, choice=PrefillChoice(cuda=True))
    assert_as_exact_as_torch(found, case.plain(), case.truth())
    run_prefill(case, spare=spare, choice=PrefillChoice(cuda=True), rounds=True)
    norm = any_.random() < 0.5
    check_rotating_prefill(heads, page, counts, lengths, window=window, fp8=fp8, norm=norm)
    return f"{text}, norm {norm}"


def run_decoding(any_: random.Random, setting: Setting) -> str:
    group, kv_heads = any_.randint(1, 8), any_.choice([1, 2])
    dim, page, window = any_.choice([64, 128]), any_.choice([16, 32, 64]), any_.choice([0, 0, 33, 100])
    fp8, splits, sub = any_.random() < 0.5, any_.randint(1, 4), any_.choice([1, 2])
    lengths = [any_.choice([1, 16, 17, 100, 300, 700]) for _ in range(any_.randint(1, 3))]
    text = f"group {group} x {kv_heads}, dim {dim}, page {page}, window {window}, fp8 {fp8}, {lengths}, {splits} x {sub}, {setting}"
    heads = (group * kv_heads, kv_heads)
    case = make_case(CPU, BF16, [1] * len(lengths), lengths, heads=heads, dim=dim, page=page, window=window, fp8=fp8)
    choice = DecodeChoice(splits=splits, sub=sub, warps=any_.choice([2, 4, 8]), alone=any_.choice([0, 0, 128]))
    assert_as_exact_as_torch(run_decode(case, choice), case.plain(), case.truth())
    run_decode(case, choice, rounds=True)
    lengths = [length for length in lengths if length < 500] or [9]
    check_rotating_decode(lengths, heads, norm=any_.random() < 0.5, fp8=fp8, splits=splits)
    return text


def run_skinny(any_: random.Random, setting: Setting) -> str:
    scheme = any_.choice([Scheme.NONE, Scheme.FP8, Scheme.INT8, Scheme.INT4])
    choice = Skinny(
        rows=any_.choice([1, 2]), warps=any_.choice([4, 8]), x_ahead=any_.random() < 0.5, tiles=any_.choice([1, 2, 4])
    )
    rows, n, k = any_.choice([1, 3, 8, 13, 17, 40]), any_.randint(1, 90), 128 * any_.randint(1, 9)
    check(scheme, rows, n, k, choice, BF16, CPU, any_.random() < 0.5)
    rounds = any_.random() < 0.5
    if scheme is not Scheme.INT4:
        check_gated(scheme, rows, 2 * n, k, CPU, choice=choice, rounds=rounds)
    return f"{scheme} {choice} rows {rows}, N {n}, K {k}, rounds {rounds}, {setting}"


def run_gated(any_: random.Random, setting: Setting) -> str:
    scheme, setting.processors = any_.choice([Scheme.NONE, Scheme.FP8]), any_.choice([2, 4, 6])
    rows, n, k = any_.choice([1, 64, 129, 300]), 256 * any_.randint(1, 3), 128 * any_.randint(1, 6)
    rounds = scheme is Scheme.FP8 and any_.random() < 0.5
    check_gated(scheme, rows, n, k, CPU, rounds=rounds)
    return f"{scheme} rows {rows}, N {n}, K {k}, rounds {rounds}, {setting}"


KERNELS: dict[str, Callable[[random.Random, Setting], str]] = {
    "prefill": run_prompts, "decode": run_decoding, "skinny": run_skinny, "gated": run_gated,
}  # fmt: skip


def main(seconds: float, names: list[str]) -> None:
    begin, seed = time.monotonic(), int(os.environ.get("SEED", "0"))
    while time.monotonic() - begin < seconds:
        for name in names:
            any_ = random.Random(seed)
            random.seed(seed)
            torch.manual_seed(seed)
            at = time.monotonic()
            with interpreted(Setting(seed=None if seed % 3 == 0 else seed)) as setting:
                try:
                    text = KERNELS[name](any_, setting)
                except BaseException:
                    print(f"SEED={seed} {name} is wrong", flush=True)
                    raise
            print(f"SEED={seed} {name} {time.monotonic() - at:.1f} s: {text}", flush=True)
        seed += 1


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0, sys.argv[2:] or list(KERNELS))
