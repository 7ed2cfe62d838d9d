"""Kernels on one GPU against what the machine can do: baseline, ours, share of the ceiling, then one JSON line each.

python benchmarks/kernels.py [attention] [gemm] [prefill] [rows] [gated]        shapes of Llama-3.1-8B; all sections by default
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial

import torch

from ingot.network.weights import Scheme, Weight
from ingot.plugins.attention.launch import DecodeChoice, Paged, Workspace, decode
from ingot.plugins.attention.prefill import PrefillChoice, Tiles, prefill
from ingot.plugins.attention.tiles import plan_tiles
from ingot.plugins.linear.gated import gated
from ingot.plugins.linear.launch import Choice, Library, Skinny, Tiled, run_linear, skinny_gated
from ingot.plugins.quantize.launch import Quantized, quantize_rows
from ingot.plugins.random_weights import random_linear
from ingot.plugins.rms_norm.launch import rms_norm
from ingot.plugins.rope.launch import rope_and_write, rope_table
from ingot.plugins.sampling.launch import greedy
from ingot.plugins.silu_mul.launch import SiluChoice, silu_mul
from ingot.runtime.bench.ceilings import copy_bandwidth, gemm_rate, seconds

HEADS, KV_HEADS, DIM, PAGE = 32, 8, 128, 32
SHAPES = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)}
GPU = torch.device("cuda")


def paged_context(seqs: int, length: int, dtype: torch.dtype) -> Paged:
    per_seq = -(-length // PAGE)
    cache = torch.randn(2, seqs * per_seq, KV_HEADS, PAGE, DIM, device=GPU, dtype=torch.bfloat16).to(dtype)
    table = torch.randperm(seqs * per_seq, device=GPU).int().view(seqs, per_seq)
    return Paged(
        cache=cache, page_table=table, rows=None, lengths=torch.full((seqs,), length, dtype=torch.int32, device=GPU)
    )


def attention(ceilings: dict[str, float]) -> Iterator[dict[str, object]]:
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        for seqs, length in ((1024, 384), (256, 1024), (256, 8192), (64, 4096), (16, 384), (1, 384), (1, 8192)):
            paged = paged_context(seqs, length, dtype)
            q = torch.randn(seqs, HEADS, DIM, device=GPU, dtype=torch.bfloat16)
            out, work = torch.empty_like(q), Workspace.allocate(seqs, HEADS, DIM, GPU)
            moved = 2 * seqs * length * KV_HEADS * DIM * dtype.itemsize
            for choice in decode_choices(seqs, length):
                call = lambda q=q, paged=paged, out=out, work=work, choice=choice: decode(q, paged, out, work, choice)
                rate = moved / seconds([call], inner=4)
                yield {"kernel": "decode", "kv": str(dtype)[6:], "seqs": seqs, "length": length, "tb_s": round(rate / 1e12, 3),
                       "share": round(rate / ceilings["copy"], 3), "us": round(moved / rate * 1e6, 1), **asdict(choice)}  # fmt: skip
            del paged


def decode_choices(seqs: int, length: int) -> list[DecodeChoice]:
    blocks = seqs * KV_HEADS
    if blocks >= 512:
        cuda = [DecodeChoice(splits=1, warps=w, sub=s) for w, s in ((1, 1), (1, 2), (2, 1), (2, 2), (8, 1))]
        return [*cuda, DecodeChoice(splits=1, cuda=False)]
    counts = sorted({max(1, min(length // 64, n // blocks)) for n in (132, 264)})
    return [DecodeChoice(splits=n, warps=w, sub=s) for n in counts for w, s in ((4, 1), (8, 1), (8, 2))]


def gemm(ceilings: dict[str, float]) -> Iterator[dict[str, object]]:
    for scheme in (Scheme.NONE, Scheme.FP8, Scheme.INT4, Scheme.INT8):
        for name, (n, k) in SHAPES.items():
            weights = [random_linear(n, k, scheme, torch.bfloat16, GPU) for _ in range(4)]
            for rows in (1, 4, 16, 32, 64):
                yield from gemm_rows(scheme, name, rows, weights, ceilings)
            del weights


def gemm_rows(
    scheme: Scheme, name: str, rows: int, weights: list[Weight[torch.Tensor]], ceilings: dict[str, float]
) -> Iterator[dict[str, object]]:
    n, k = SHAPES[name]
    x: torch.Tensor | Quantized = torch.randn(rows, k, device=GPU, dtype=torch.bfloat16)
    if scheme in (Scheme.FP8, Scheme.INT8):
        assert isinstance(x, torch.Tensor)
        x = quantize_rows(x, weights[0])
    peak = ceilings["fp8" if scheme in (Scheme.FP8, Scheme.INT8) else "bf16"]
    bits = {Scheme.NONE: 16, Scheme.FP8: 8, Scheme.INT8: 8, Scheme.INT4: 4.25}[scheme]
    floor = max(n * k * bits / 8 / ceilings["copy"], 2 * rows * n * k / peak)
    for choice in gemm_choices(scheme, rows, n, k):
        try:
            calls = [
                lambda w=w, x=x, choice=choice: run_linear(x, w, choice, out_dtype=torch.bfloat16) for w in weights
            ]
            took = seconds(calls, repeats=5, inner=2)
        except Exception as broken:  # noqa: BLE001 - a tile that does not fit the chip is a result too
            yield {
                "kernel": "gemm",
                "scheme": scheme.value,
                "name": name,
                "rows": rows,
                "choice": repr(choice),
                "failed": str(broken)[:80],
            }
            continue
        yield {"kernel": "gemm", "scheme": scheme.value, "name": name, "rows": rows, "us": round(took * 1e6, 2),
               "share": round(floor / took, 3), "choice": repr(choice)}  # fmt: skip


def gemm_choices(scheme: Scheme, rows: int, n: int, k: int) -> list[Choice]:
    choices: list[Choice] = [] if scheme in (Scheme.INT8, Scheme.INT4) else [Library()]
    if scheme is Scheme.INT4:
        return (
            [Skinny(rows=r, warps=w) for r, w in ((1, 4), (1, 8), (2, 4), (2, 8), (4, 4))]
            if rows <= 64
            else [Tiled(bm=64, bn=64, bk=128)]
        )
    if rows <= 16:
        choices += [Skinny(rows=r, warps=w, x_ahead=x) for r, w, x in SKINNY]
    elif rows <= 64:
        choices += [
            Skinny(rows=1, warps=8, x_ahead=False),
            Skinny(rows=2, warps=8, x_ahead=False),
            Skinny(rows=2, warps=4),
        ]
    if scheme is Scheme.INT8 or (scheme is Scheme.FP8 and rows in (64, 128, 256)):
        choices += [Tiled(bm=64, bn=64, bk=128, warps=4, stages=5), Tiled(bm=128, bn=128, bk=128, warps=8)]
    return choices


SKINNY = ((1, 4, True), (1, 8, True), (1, 16, True), (1, 8, False), (2, 4, False), (2, 8, False), (4, 4, False))


def prompt(ceilings: dict[str, float]) -> Iterator[dict[str, object]]:
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        for seqs, count, length in ((64, 128, 128), (8, 1024, 1024), (4, 2048, 2048), (1, 2048, 8192)):
            paged = paged_context(seqs, length, dtype)
            q = torch.randn(seqs * count, HEADS, DIM, device=GPU, dtype=torch.bfloat16)
            out = torch.empty_like(q)
            starts = torch.arange(0, seqs * count + 1, count, dtype=torch.int32, device=GPU)
            columns = zip(*plan_tiles([count] * seqs, 128 // (HEADS // KV_HEADS)), strict=True)
            at = Tiles(
                **dict(
                    zip(
                        ("seqs", "starts"),
                        (torch.tensor(c, dtype=torch.int32, device=GPU) for c in columns),
                        strict=True,
                    )
                )
            )
            flop = 4 * seqs * HEADS * DIM * (count * length - count * (count - 1) / 2)
            tiles = ((64, 8, 2), (64, 8, 3), (128, 8, 2), (64, 4, 3), (32, 8, 3))
            for choice in (
                PrefillChoice(cuda=True),
                *(PrefillChoice(keys=k, warps=w, stages=s) for k, w, s in tiles),
            ):
                call = lambda q=q, paged=paged, starts=starts, at=at, out=out, choice=choice: prefill(
                    q, paged, starts, at, out, choice
                )
                took = seconds([call], inner=2)
                yield {"kernel": "prefill", "kv": str(dtype)[6:], "seqs": seqs, "count": count, "length": length, "us": round(took * 1e6, 1),
                       "tflop_s": round(flop / took / 1e12, 1), "share": round(flop / took / ceilings["bf16"], 3), **asdict(choice)}  # fmt: skip


def rows(ceilings: dict[str, float]) -> Iterator[dict[str, object]]:
    for count in (1, 16, 256, 1024, 8192):
        for name, (call, moved) in row_calls(count).items():
            took = seconds([call], inner=8)
            yield {
                "kernel": name,
                "rows": count,
                "us": round(took * 1e6, 2),
                "share": round(moved / took / ceilings["copy"], 3),
            }


def row_calls(count: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Name -> (call, bytes it must move)."""
    weight, cache = torch.ones(4096, device=GPU, dtype=torch.bfloat16), paged_context(8, 1024, torch.bfloat16).cache
    table = rope_table(tuple(1e4 ** (-i / 64) for i in range(64)), 8192, GPU)
    fp8 = Weight(scheme=Scheme.FP8, data=weight)
    x, qkv, gate_up = (torch.randn(count, n, device=GPU, dtype=torch.bfloat16) for n in (4096, 6144, 28672))
    residual, positions = x.clone(), torch.arange(count, device=GPU, dtype=torch.int32) % 8192
    rope = partial(rope_and_write, num_heads=HEADS, norms=None, eps=0.0, kv_scales=(1.0, 1.0))
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "add_norm_bf16": (lambda: rms_norm(x, residual, weight, 1e-5, None), count * 4096 * 8),
        "add_norm_fp8": (lambda: rms_norm(x, residual, weight, 1e-5, fp8), count * 4096 * 7),
        "silu_mul_bf16": (lambda: silu_mul(gate_up, None), count * 14336 * 6),
        "silu_mul_fp8": (lambda: silu_mul(gate_up, fp8), count * 14336 * 5),
        "silu_mul_fp8 fast": (lambda: silu_mul(gate_up, fp8, SiluChoice(fast=True)), count * 14336 * 5),
        "silu_mul_fp8 fast, 16 warps": (
            lambda: silu_mul(gate_up, fp8, SiluChoice(fast=True, warps=16)),
            count * 14336 * 5,
        ),
        "quantize": (lambda: quantize_rows(x, fp8), count * 4096 * 3),
        "rope": (lambda: rope(qkv, positions, positions, table, cache), count * 6144 * 4),
    }
    if count <= 1024:
        logits, tokens = torch.randn(count, 128256, device=GPU), torch.empty(count, dtype=torch.int32, device=GPU)
        calls["greedy"] = (lambda: greedy(logits, tokens), count * 128256 * 4)
        calls["torch.argmax"] = (lambda: logits.argmax(-1), count * 128256 * 4)
    return calls


def activated(ceilings: dict[str, float]) -> Iterator[dict[str, object]]:
    """The product of gate and up with SiLU in its end, and as two kernels, for a linear that reads bf16 or, in FP8, e4m3 by one scale; many
    rows held for a tenth of a second or more, at the power limit."""
    n, k = SHAPES["gate_up"]
    for scheme, peak in ((Scheme.NONE, ceilings["bf16"]), (Scheme.FP8, ceilings["fp8"])):
        weights = [random_linear(n, k, scheme, torch.bfloat16, GPU) for _ in range(2)]
        readers = [Weight(scheme=Scheme.NONE, data=weights[0].data)]
        if scheme is Scheme.FP8:
            readers.append(replace(weights[0], input_scale=torch.full((1,), 0.02, device=GPU)))
        for count in (1, 16, 512, 1024, 2048, 8192):
            x: torch.Tensor | Quantized = torch.randn(count, k, device=GPU, dtype=torch.bfloat16)
            if scheme is Scheme.FP8 and isinstance(x, torch.Tensor):
                x = quantize_rows(x, weights[0])
            floor = max(n * k * weights[0].data.element_size() / ceilings["copy"], 2 * count * n * k / peak)
            for reader in readers:
                for name, call in activations(x, reader, count).items():
                    took = seconds(
                        [partial(call, w) for w in weights], repeats=15, inner=max(4, 16384 // max(count, 512))
                    )
                    yield {"kernel": name, "scheme": scheme.value, "down": reader.scheme.value, "rows": count, "us": round(took * 1e6, 2),
                           "share": round(floor / took, 3)}  # fmt: skip


def activations(
    x: torch.Tensor | Quantized, reader: Weight[torch.Tensor], count: int
) -> dict[str, Callable[[Weight[torch.Tensor]], object]]:
    few, choice = count <= 64, Skinny()
    apart: Choice = choice if few else Library()
    return {
        "gate_up, then silu_mul": lambda w: silu_mul(run_linear(x, w, apart, out_dtype=torch.bfloat16), reader, SiluChoice(fast=True)),
        "gated": lambda w: skinny_gated(x, w, reader, choice) if few else gated(x, w, reader),
    }  # fmt: skip


SECTIONS = {"attention": attention, "prefill": prompt, "rows": rows, "gemm": gemm, "gated": activated}


def main() -> None:
    ceilings = {"copy": copy_bandwidth(), "bf16": gemm_rate(torch.bfloat16), "fp8": gemm_rate(torch.float8_e4m3fn)}
    print(json.dumps({"ceilings": ceilings, "gpu": torch.cuda.get_device_name(), "torch": torch.__version__}))
    for section in sys.argv[1:] or SECTIONS:
        for line in SECTIONS[section](ceilings):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
