"""Chooses, on the GPU at hand, how an engine's kernels run: linears by row count (linear/tune.py) and the variants. Part of a build.

A variant is taken only where a small ragged case shows it as exact as the usual way, and then only where it is faster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ingot.network.config import ModelConfig
from ingot.network.decoder import decoder, mlp_block, norm_after
from ingot.network.ops import Ops
from ingot.network.weights import Weight
from ingot.plugins.attention.cases import PrefillCase, RotationCase
from ingot.plugins.attention.launch import decode_choice
from ingot.plugins.attention.prefill import PrefillChoice, choose_prefill, fits_cuda_prefill
from ingot.plugins.attention.step import CudaBatch
from ingot.plugins.cuda_ops import CudaOps
from ingot.plugins.linear.gated_trial import gated_from
from ingot.plugins.linear.launch import Choices
from ingot.plugins.linear.tune import tune
from ingot.plugins.overlap import ALONE, Overlap, supported
from ingot.plugins.quantize.launch import floats
from ingot.plugins.silu_mul.launch import MANY, SiluChoice, silu_mul
from ingot.plugins.silu_mul.reference import silu_mul as true_silu_mul
from ingot.plugins.step_sizes import best_sizes, tried_sizes
from ingot.plugins.trial import Trial, decide, seconds
from ingot.plugins.variants import Variants

LAYERS = 4  # of the decode steps that are timed
CONTEXT = 384
# Measured on an H200 with Llama-3.1-8B: a lone prompt of 128 tokens 23.6 -> 5.1 ms in bf16, 37.8 -> 3.8 in FP8, for 0.2 % of the
# KV pool and 1.5 s at load. Larger steps keep the GPU longer than the host takes to launch them.
MIXED_TOKENS = 2048
# Rows of a decode step from which rotation in attention is asked for again where it was not faster at 16: RoPE's kernel takes 8 us a layer
# at 1024 rows on an H200, beside which attention, bound by memory, rotates for nothing.
MANY_ROWS = 512
# Tokens of a step from which prompts' attention may rotate queries itself: RoPE 1.69 -> 0.59 ms and attention 0.5 ms more of a full step
# on an H200, but a prompt of 128 tokens alone takes 0.3 ms longer of 4.0 in FP8.
MANY_PROMPTS = 4096


def tune_engine(
    config: ModelConfig, weights: Mapping[str, Weight[Tensor]], rows: Sequence[int], dtype: torch.dtype, kv_dtype: torch.dtype,
    *, page: int, tokens: int, seqs: int,
) -> Choices:  # fmt: skip
    """`rows`: the row buckets of linear/launch.py to tune; `tokens`: of a step full of prompts; `seqs`: of the largest decode step."""
    choices = tune(weights, rows, dtype)
    attention = decide(prefill_trial(config, dtype, kv_dtype, page, tokens)).best
    activation = decide(silu_trial(config, weights["layers.0.down"], dtype, tokens)).best
    assert isinstance(attention, PrefillChoice)
    assert isinstance(activation, SiluChoice)
    leaves = attention.cuda and tokens >= MANY_PROMPTS
    leaves = leaves and decide(prompt_rotation_trial(config, dtype, kv_dtype, page, tokens)).best is True
    activates = gated_from(weights["layers.0.gate_up"], weights["layers.0.down"], activation, dtype, tokens)
    rotates = [0]  # rows from which a step tries rotation in attention; 0: it does not
    if config.head_dim == 128 and dtype == torch.bfloat16:
        right = decide(rotation_trial(config, dtype, kv_dtype, page)).seconds
        rotates += [1] if True in right else []  # whether it is faster, a whole step tells

    def best_step(rows: int, rotates: Sequence[int], overlaps: Sequence[Overlap]) -> Variants:
        found = decide(step_trial(config, weights, choices, dtype, kv_dtype, page, rows, rotates, overlaps)).best
        assert isinstance(found, Variants)
        return found

    few = best_step(16, rotates, every_overlap(16))
    more = best_step(64, [few.rotating_rows], every_overlap(64))
    rotating = few.rotating_rows
    if rotates[-1] > rotating and best_step(MANY_ROWS, rotates, [ALONE]).rotating_rows:
        rotating = MANY_ROWS
    overlap = joined(few.overlap, more.overlap)
    variants = replace(
        few, prefill=attention, silu=activation, gated_rows=activates, overlap=overlap, mixed_tokens=MIXED_TOKENS,
        rotated_prompts=MANY_PROMPTS if leaves else 0, rotating_rows=rotating,
    )  # fmt: skip
    choices = replace(choices, variants=variants)
    sizes = decode_sizes(config, weights, choices, dtype, seqs)
    return replace(choices, variants=replace(variants, decode_sizes=sizes))


def every_overlap(rows: int) -> list[Overlap]:
    """Of kernels of so many rows."""
    return [ALONE, Overlap(ahead=0, late=rows), Overlap(ahead=rows)] if supported() else [ALONE]


def joined(few: Overlap, more: Overlap) -> Overlap:
    """What was found for few rows up to that many, what was found for more beyond."""
    ahead = max(few.ahead, more.ahead) if few.ahead else 0
    return Overlap(ahead=max(ahead, Overlap().ahead), late=max(few.ahead, few.late, more.ahead, more.late))


def prefill_trial(
    config: ModelConfig, dtype: torch.dtype, kv_dtype: torch.dtype, page: int, tokens: int
) -> Trial[object]:
    small = PrefillCase(config, dtype, kv_dtype, page, [40, 1, 7, 130, 33], [40, 60, 90, 131, 700])
    prompts = full_step(config, tokens)
    large = PrefillCase(config, dtype, kv_dtype, page, prompts, prompts)
    return Trial(name="prefill", ways=prefill_ways(small), check=small.run, truth=small.truth(), run=large.run)


def full_step(config: ModelConfig, tokens: int) -> list[int]:
    """Lengths of prompts of 2048 tokens, as many as a step of `tokens` takes."""
    length = min(2048, max(tokens, 1), config.max_position)
    return [length] * max(tokens // length, 1)


def prefill_ways(case: PrefillCase) -> list[object]:
    usual, dim = choose_prefill(case.q.shape[2], case.paged.cache.dtype), case.q.shape[2]
    ways: list[object] = [usual]
    if dim <= 128:
        ways += [
            PrefillChoice(keys=k, warps=w, stages=s) for k, w, s in ((64, 4, 3), (64, 4, 2), (128, 8, 2), (64, 8, 2))
        ]
    if fits_cuda_prefill(case.q.shape[1], case.q.dtype, case.paged.cache):
        ways.append(PrefillChoice(cuda=True))
    return list(dict.fromkeys(ways))


def silu_trial(
    config: ModelConfig, reader: Weight[Tensor], dtype: torch.dtype, tokens: int, *, check_rows: int = MANY
) -> Trial[object]:
    def run(x: Tensor, way: object) -> Tensor:
        assert isinstance(way, SiluChoice)
        return floats(silu_mul(x, reader, way))

    device = reader.data.device
    small, large = (torch.randn(n, 2 * config.intermediate_size, device=device).to(dtype) for n in (check_rows, tokens))
    truth = true_silu_mul(small.float())
    if reader.pre_scale is not None:
        truth = truth * reader.pre_scale
    ways: list[object] = [SiluChoice(), *(SiluChoice(fast=True, warps=w) for w in (0, 8, 16, 32))]
    return Trial(
        name="silu_mul",
        ways=ways,
        check=lambda way: run(small, way),
        truth=truth,
        run=lambda way: silu_mul(large, reader, way if isinstance(way, SiluChoice) else SiluChoice()),
    )


def rotation_trial(config: ModelConfig, dtype: torch.dtype, kv_dtype: torch.dtype, page: int) -> Trial[object]:
    """Ways: whether decode attention rotates by itself."""
    small = RotationCase(config, dtype, kv_dtype, page, [1, 16, 17, 100, 33, 1025])
    large = RotationCase(config, dtype, kv_dtype, page, [CONTEXT] * 16)
    return Trial(
        name="rotation in attention", ways=[False, True], check=small.check, truth=small.truth(), run=large.run
    )


def prompt_rotation_trial(
    config: ModelConfig, dtype: torch.dtype, kv_dtype: torch.dtype, page: int, tokens: int
) -> Trial[object]:
    """Ways: whether prefill.cu rotates the queries that it reads."""
    small = RotationCase(config, dtype, kv_dtype, page, [40, 60, 90, 131, 700], counts=[40, 1, 7, 130, 33])
    prompts = full_step(config, tokens)
    large = RotationCase(config, dtype, kv_dtype, page, prompts, counts=prompts)
    return Trial(name="rotation in prefill", ways=[False, True], check=small.check, truth=small.truth(), run=large.run)


def step_trial(
    config: ModelConfig, weights: Mapping[str, Weight[Tensor]], choices: Choices, dtype: torch.dtype, kv_dtype: torch.dtype,
    page: int, rows: int, rotates: Sequence[int], overlaps: Sequence[Overlap],
) -> Trial[object]:  # fmt: skip
    """Ways: how kernels of so many rows overlap, each with attention that rotates from `rotates` rows on, as asked for. Overlapping must
    not change the step's numbers at all."""
    few, own = first_layers(config, weights)
    batch = decode_batch(few, rows, CONTEXT, page, kv_dtype)
    caches = [
        torch.randn(2, rows * -(-CONTEXT // page), few.num_kv_heads, page, few.head_dim, device="cuda", dtype=dtype).to(kv_dtype)
        for _ in range(few.num_layers)
    ]  # fmt: skip
    ways = [Variants(rotating_rows=rotating, overlap=overlap) for rotating in rotates for overlap in overlaps]
    steps = {
        way: CudaOps(few, own, caches, dtype=dtype, max_position=2 * CONTEXT, choices=replace(choices, variants=way))
        for way in ways
    }  # fmt: skip

    def run(way: object) -> Tensor:
        assert isinstance(way, Variants)
        ops = steps[way]
        ops.settle()
        interpreter: Ops[Any] = ops
        logits: Tensor = decoder(interpreter, few, batch)
        return logits

    usual = run(ways[0])

    def check(way: object) -> Tensor:
        """What overlapping changes, put upon the usual step."""
        assert isinstance(way, Variants)
        return usual + (run(way) - run(replace(way, overlap=ALONE)))

    return Trial(name=f"step of {rows} rows", ways=list(ways), check=check, truth=usual, run=run)


def decode_sizes(
    config: ModelConfig, weights: Mapping[str, Weight[Tensor]], choices: Choices, dtype: torch.dtype, seqs: int
) -> tuple[int, ...]:
    """Rows of captured decode steps up to `seqs`, by what all but attention takes at every size that is tried."""
    few, own = first_layers(config, weights)
    kernels = CudaOps(few, own, [], dtype=dtype, max_position=1, choices=choices)
    ops: Ops[Any] = kernels

    def layers(attended: Tensor, residual: Tensor) -> None:
        x = ops.rms_norm("layers.0.input_norm", residual)
        for layer in range(few.num_layers):
            ops.linear(f"layers.{layer}.qkv", x)
            x, residual = ops.add_rms_norm(
                f"layers.{layer}.post_norm", ops.linear(f"layers.{layer}.o", attended), residual
            )
            x, residual = ops.add_rms_norm(norm_after(few, layer), mlp_block(ops, layer, x), residual)

    def random(rows: int, width: int) -> Tensor:
        return torch.randn(rows, width, device=own["embed"].data.device).to(dtype)

    tried, times = tried_sizes(seqs), dict[int, float]()
    for rows in tried + tried[::-1]:  # whatever else the GPU does hardly strikes a size twice
        inputs = random(rows, few.num_heads * few.head_dim), random(rows, few.hidden_size)
        times[rows] = min(seconds(partial(layers, *inputs), inner=1), times.get(rows, math.inf))
    return tuple(best_sizes(times, seqs))


def first_layers(
    config: ModelConfig, weights: Mapping[str, Weight[Tensor]]
) -> tuple[ModelConfig, dict[str, Weight[Tensor]]]:
    """A model of LAYERS layers, and its weights."""
    few = replace(config, num_layers=min(LAYERS, config.num_layers), windows=config.windows[:LAYERS])
    return few, {name: weight for name, weight in weights.items() if layer_of(name) < few.num_layers}


def layer_of(name: str) -> int:
    """-1 for what belongs to none."""
    return int(name.split(".")[1]) if name.startswith("layers.") else -1


def decode_batch(config: ModelConfig, seqs: int, length: int, page: int, kv: torch.dtype) -> CudaBatch:
    """One token of each of `seqs` sequences at the end of contexts of `length`, in pages in random order."""
    per_seq, last = -(-length // page), length - 1
    order = torch.randperm(seqs * per_seq, device="cuda").int().view(seqs, per_seq)
    lengths = torch.full((seqs,), length, dtype=torch.int32, device="cuda")
    rows = torch.arange(seqs, dtype=torch.int32, device="cuda")
    return CudaBatch(
        token_ids=torch.randint(0, config.vocab_size, (seqs,), device="cuda"), positions=lengths - 1,
        slots=order[:, last // page] * page + last % page, page_table=order, query_starts=lengths, kv_lengths=lengths, logit_rows=rows,
        rows=rows, num_decodes=seqs, all_rows=True,
        decode_choice=decode_choice(config, seqs, kv, length),
    )  # fmt: skip
