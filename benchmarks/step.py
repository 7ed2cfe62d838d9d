"""One decode step of a model on random weights, as one CUDA graph: what the GPU can do before any host work.

python benchmarks/step.py CONFIG.json SEQSxLENGTH,... [--quant none|fp8|int8|int4] [--kv auto|fp8]
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from gpu_timing import seconds

from ingot.network.config import ModelConfig
from ingot.network.decoder import decoder
from ingot.network.ops import Ops
from ingot.network.weights import Scheme
from ingot.plugins.attention.launch import choose_decode
from ingot.plugins.attention.step import CudaBatch
from ingot.plugins.cuda_ops import CudaOps
from ingot.plugins.random_weights import random_weights
from ingot.plugins.sampling.launch import greedy

GPU, PAGE = torch.device("cuda"), 32


def decode_batch(config: ModelConfig, seqs: int, length: int, kv: torch.dtype) -> CudaBatch:
    per_seq = -(-length // PAGE)
    order = torch.randperm(seqs * per_seq, device=GPU).int().view(seqs, per_seq)
    last = length - 1
    lengths = torch.full((seqs,), length, dtype=torch.int32, device=GPU)
    group = config.num_heads // config.num_kv_heads
    return CudaBatch(
        token_ids=torch.randint(0, config.vocab_size, (seqs,), device=GPU), positions=lengths - 1,
        slots=order[:, last // PAGE] * PAGE + last % PAGE, page_table=order, query_starts=torch.arange(seqs + 1, device=GPU).int(),
        kv_lengths=lengths, logit_rows=torch.arange(seqs, device=GPU), num_decodes=seqs, all_rows=True,
        decode_choice=choose_decode(seqs, config.num_kv_heads, group, config.head_dim, kv, length),
    )  # fmt: skip


def kind_of(kernel: str) -> str:
    if "paged_decode" in kernel or "decode_kernel" in kernel or "combine_kernel" in kernel:
        return "attention"
    if os.environ.get("BY_NAME"):
        return kernel[:60]
    for ours in (
        "norm_kernel",
        "silu",
        "rope",
        "quantize",
        "argmax",
        "elementwise",
        "index",
        "fill",
        "copy",
        "Memset",
        "Memcpy",
    ):
        if ours in kernel:
            return ours.removesuffix("_kernel")
    return "gemm"


def breakdown(call: Any, replays: int = 5) -> dict[str, float]:
    """Milliseconds of each kind of kernel in one call."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    graph.replay()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(replays):
            graph.replay()
        torch.cuda.synchronize()
    kinds: dict[str, float] = defaultdict(float)
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            kinds[kind_of(event.name)] += event.device_time_total / 1e3 / replays
    return {kind: round(value, 4) for kind, value in sorted(kinds.items())}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("shapes")
    parser.add_argument("--quant", default="none", choices=[scheme.value for scheme in Scheme])
    parser.add_argument("--kv", default="auto", choices=["auto", "fp8"])
    args = parser.parse_args()
    config = ModelConfig.from_hf(json.loads(args.config.read_text()))
    kv = torch.float8_e4m3fn if args.kv == "fp8" else torch.bfloat16
    weights = random_weights(config, Scheme(args.quant), torch.bfloat16, GPU)
    ops = CudaOps(config, weights, [], dtype=torch.bfloat16, max_position=16384)
    interpreter: Ops[Any] = ops
    with torch.inference_mode():
        for shape in args.shapes.split(","):
            seqs, length = map(int, shape.split("x"))
            batch = decode_batch(config, seqs, length, kv)
            num_pages = seqs * -(-length // PAGE)
            ops.caches = [
                torch.randn(
                    2, num_pages, config.num_kv_heads, PAGE, config.head_dim, device=GPU, dtype=torch.bfloat16
                ).to(kv)
                for _ in range(config.num_layers)
            ]
            tokens = torch.empty(seqs, dtype=torch.int32, device=GPU)

            def step(batch: CudaBatch = batch, tokens: torch.Tensor = tokens) -> None:
                greedy(decoder(interpreter, config, batch), tokens)

            took = seconds([step], repeats=9)
            parts = breakdown(step)
            line = {"bench": "step", "quant": args.quant, "kv": args.kv, "seqs": seqs, "length": length, "ms": round(took * 1e3, 4),
                    "tok_s": round(seqs / took), "parts_ms": parts, "gaps_ms": round(took * 1e3 - sum(parts.values()), 4)}  # fmt: skip
            print(json.dumps(line), flush=True)
            ops.caches = []
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
