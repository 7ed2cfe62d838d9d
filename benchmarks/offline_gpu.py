"""Offline throughput of the cuda program on random weights: greedy, EOS ignored, tokens in, tokens out, no prefix cache hits.

python benchmarks/offline_gpu.py CONFIG.json [--quant none|fp8|int8|int4] [--kv auto|fp8] [--workloads ISL/OSLxN,...]

One JSON line a workload: output tokens/s, and the share of what arithmetic allows: GEMM FLOPs at the measured rate or the
weights once a step at the measured copy bandwidth, whichever is longer, plus every KV byte at that bandwidth.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_timing import copy_bandwidth, gemm_rate

from ingot.manifest import Limits
from ingot.network.config import ModelConfig
from ingot.network.weights import LINEARS, Scheme, linear_shape
from ingot.plugins.linear.tune import tune, write_choices
from ingot.plugins.random_weights import random_weights
from ingot.runtime.executor import Executor
from ingot.runtime.messages import TokenRequest
from ingot.runtime.params import SamplingParams
from ingot.runtime.programs.cuda import cuda_program
from ingot.runtime.programs.cuda_tables import CudaTicket
from ingot.runtime.programs.gpu import GpuProgram

DEFAULT = "128/16x32,128/256x1,128/256x16,128/512x1024,1024/256x768,2048/128x384"


def limit_seconds(
    config: ModelConfig, program: GpuProgram, isl: int, osl: int, n: int, scheme: Scheme, ceilings: dict[str, float]
) -> float:
    linear = config.num_layers * sum(a * b for a, b in (linear_shape(config, kind) for kind in LINEARS))
    head = config.vocab_size * config.hidden_size
    eight_bit = scheme in (Scheme.FP8, Scheme.INT8)
    rate = ceilings["fp8" if eight_bit else "bf16"]
    token_bytes = program.memory.page_bytes / program.page_size
    at_once = min(n, program.max_num_seqs, int(program.num_pages * program.page_size / (isl + osl)))
    prefill = 2 * linear * isl * n / rate + 2 * head * n / ceilings["bf16"]
    weights = (linear * (1 if eight_bit else 0.53 if scheme is Scheme.INT4 else 2) + head * 2) / ceilings["copy"]
    decode = max(weights, at_once * (2 * linear / rate + 2 * head / ceilings["bf16"])) * (osl - 1) * n / at_once
    kv = sum(isl + i for i in range(1, osl)) * n * token_bytes / ceilings["copy"]
    return prefill + decode + kv


def run(
    program: GpuProgram, limits: Limits, isl: int, osl: int, n: int, vocab: int
) -> tuple[float, int, dict[str, float]]:
    executor = Executor(program, limits, [], max_waiting=100_000)
    spent = watched(executor)
    rng = np.random.default_rng(0)
    params = SamplingParams(temperature=0.0, max_tokens=osl, ignore_eos=True)
    requests = [
        TokenRequest(request_id=str(i), token_ids=rng.integers(10, vocab - 10, isl).tolist(), params=params)
        for i in range(n)
    ]
    torch.cuda.synchronize()
    start, produced, steps = time.perf_counter(), 0, 0
    for request in requests:
        executor.add(request)
    while executor.has_work:
        for chunk in executor.step():
            produced += len(chunk.token_ids)
        steps += 1
    torch.cuda.synchronize()
    assert produced == n * osl, (produced, n * osl)
    seconds = time.perf_counter() - start
    return seconds, produced, {"steps": steps} | {name: round(value, 3) for name, value in spent.items()}


def watched(executor: Executor) -> dict[str, float]:
    """Seconds the host spends in each part of a step, filled as the executor runs."""
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any) -> Any:
            begin = time.perf_counter()
            result = call(*args)
            spent[name] += time.perf_counter() - begin
            return result

        return wrapper

    scheduler, program = executor._scheduler, executor._program
    scheduler.schedule = timed("schedule", scheduler.schedule)  # type: ignore[method-assign]
    scheduler.settle = timed("settle", scheduler.settle)  # type: ignore[method-assign]
    program.launch = timed("launch", type(program).launch.__get__(program))  # type: ignore[method-assign]
    CudaTicket.result = timed("wait", RESULT)  # type: ignore[method-assign]
    return spent


RESULT = CudaTicket.result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("--quant", default="none", choices=[scheme.value for scheme in Scheme])
    parser.add_argument("--kv", default="auto", choices=["auto", "fp8"])
    parser.add_argument("--workloads", default=DEFAULT)
    parser.add_argument("--max-num-seqs", type=int, default=1024)
    parser.add_argument("--max-num-batched-tokens", type=int, default=8192)
    parser.add_argument("--freeze", action="store_true", help="keep the garbage collector off what exists at the start")
    parser.add_argument("--run", default=time.strftime("%Y-%m-%dT%H:%M:%S"))
    args = parser.parse_args()
    config = ModelConfig.from_hf(json.loads(args.config.read_text()))
    ceilings = {"copy": copy_bandwidth(), "bf16": gemm_rate(torch.bfloat16), "fp8": gemm_rate(torch.float8_e4m3fn)}
    torch.cuda.empty_cache()
    limits = Limits(
        max_model_len=8192,
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens,
        page_size=32,
    )
    begin = time.perf_counter()
    weights = random_weights(config, Scheme(args.quant), torch.bfloat16, torch.device("cuda"))
    torch.cuda.synchronize()
    loaded = time.perf_counter()
    kv = torch.float8_e4m3fn if args.kv == "fp8" else torch.bfloat16
    choices = tune(weights, (1, 2, 4, 8, 16, 32, 64, 128, 256), torch.bfloat16)
    tuned = time.perf_counter()
    write_choices(choices, Path(os.environ.get("OUT", ".")) / f"choices-{args.quant}.json")
    program = cuda_program(config, weights, limits, dtype=torch.bfloat16, kv_dtype=kv, choices=choices)
    ready = time.perf_counter()
    print(
        json.dumps(
            {
                "ceilings": ceilings,
                "weights_s": round(loaded - begin, 1),
                "tune_s": round(tuned - loaded, 1),
                "program_s": round(ready - tuned, 1),
                "memory": str(program.memory),
            }
        )
    )
    if args.freeze:
        gc.collect()
        gc.freeze()
    mode = {"none": "bf16"}.get(args.quant, args.quant) + ("kv" if args.kv == "fp8" else "")
    versions = {"torch": torch.__version__, "python": platform.python_version(), "gpu": torch.cuda.get_device_name()}
    for index, workload in enumerate(args.workloads.split(",")):
        lengths, count = workload.split("x")
        isl, osl, n = *map(int, lengths.split("/")), int(count)
        seconds, produced, steps = run(program, limits, isl, osl, n, config.vocab_size)
        limit = n * osl / limit_seconds(config, program, isl, osl, n, Scheme(args.quant), ceilings)
        line = {"run": args.run, "engine": "ingot", "mode": mode, "isl": isl, "osl": osl, "requests": n, "seconds": round(seconds, 3),
                "output_tok_s": round(produced / seconds, 1), "limit_tok_s": round(limit, 1), "share": round(produced / seconds / limit, 3),
                "host_s": steps, "versions": versions, "command": "python " + " ".join(sys.argv)}  # fmt: skip
        if index:
            print(json.dumps(line), flush=True)
    program.close()


if __name__ == "__main__":
    main()
