"""How long and how much memory ONNX and TensorRT-RTX take for an 8B-shaped model with random weights: no GPU is needed.

    python benchmarks/build.py --scheme fp8 --sm 89,120 --out /tmp/plans

Prints what each part took, the plans' table and, last, one JSON line. --layers makes a thinner model of the same width.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from ingot.builder.memory import human
from ingot.builder.onnx import EngineWeights, build_graph, weight_files, write_model
from ingot.builder.tensorrt.rtx import compile_rtx
from ingot.builder.tensorrt.tables import plans_table
from ingot.builder.tensorrt.worker import peak_rss
from ingot.manifest import Limits
from ingot.network.config import Llama3Rope, ModelConfig
from ingot.network.names import sources
from ingot.network.weights import INT4_GROUP, LINEARS, NVFP4_GROUP, Scheme, linear_shape

LIMITS = Limits(max_model_len=8192, max_num_seqs=256, max_num_batched_tokens=8192, page_size=16)
ROPE = Llama3Rope(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=8192)
Part = tuple[str, tuple[int, ...], int]  # dtype as safetensors spells it, shape, bytes of an element


def llama_8b(layers: int) -> ModelConfig:
    """Llama-3.1-8B's shape (arXiv:2407.21783, table 3)."""
    return ModelConfig(
        family="llama",
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_layers=layers,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        max_position=131072,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=ROPE,
        windows=(0,) * layers,
    )


def parts(config: ModelConfig, scheme: Scheme) -> dict[str, Part]:
    """Every tensor of an engine's weights."""
    found: dict[str, Part] = {}
    for name in sources(config):
        kind = name.rpartition(".")[2]
        if kind in LINEARS:
            found |= linear_parts(name, *linear_shape(config, kind), scheme)
        elif kind in ("embed", "lm_head"):
            found[f"{name}.weight"] = ("F16", (config.vocab_size, config.hidden_size), 2)
        else:
            found[f"{name}.weight"] = ("F16", (config.hidden_size,), 2)
    return found


def linear_parts(name: str, n: int, k: int, scheme: Scheme) -> dict[str, Part]:
    weight, scale, second = f"{name}.weight", f"{name}.weight_scale", f"{name}.weight_scale_2"
    match scheme:
        case Scheme.NONE:
            return {weight: ("F16", (n, k), 2)}
        case Scheme.FP8 | Scheme.INT8:
            return {weight: ("F8_E4M3" if scheme is Scheme.FP8 else "I8", (n, k), 1), scale: ("F32", (n,), 4)}
        case Scheme.INT4:
            return {weight: ("U8", (n, k // 2), 1), scale: ("F32", (n, k // INT4_GROUP), 4)}
        case Scheme.NVFP4:
            blocks: dict[str, Part] = {weight: ("U8", (n, k // 2), 1), scale: ("F8_E4M3", (n, k // NVFP4_GROUP), 1)}
            return blocks | {second: ("F32", (n,), 4)}


def write_random(path: Path, tensors: dict[str, Part]) -> int:
    """A safetensors file of finite random numbers, streamed. Returns its bytes."""
    header, offset = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        end = offset + size * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    block = np.random.default_rng(0).integers(0, 0x50, 1 << 24, np.uint8)  # below e4m3's and fp16's infinities
    scales = np.full(1 << 20, 1e-3, np.float32).view(np.uint8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for dtype, shape, size in tensors.values():
            source, left = scales if dtype == "F32" else block, size * int(np.prod(shape))
            while left:
                left -= file.write(source[: min(left, source.nbytes)].tobytes())
    return path.stat().st_size


def emit(folder: Path, layers: int) -> None:
    """The whole graph with its weights, in a process of its own so that its memory is its own."""
    before, start = peak_rss(), time.perf_counter()
    weights = EngineWeights(weight_files(folder / "weights"))
    graph = build_graph(
        weights, llama_8b(layers), dtype="float16", kv_dtype="float16", page_size=16, max_positions=LIMITS.max_model_len
    )
    write_model(graph, folder / "onnx" / "model.onnx")
    print(json.dumps({"seconds": time.perf_counter() - start, "extra_rss": peak_rss() - before}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scheme", choices=[str(scheme) for scheme in Scheme], default="fp8")
    parser.add_argument("--sm", default="89,120")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--out", type=Path, required=True, help="an empty folder; needs three times the weights' size")
    parser.add_argument("--emit-only", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.emit_only:
        emit(given.out, given.layers)
        return
    console, config = Console(width=120), llama_8b(given.layers)
    (given.out / "weights").mkdir(parents=True)
    size = write_random(given.out / "weights" / "model.safetensors", parts(config, Scheme(given.scheme)))
    console.print(f"weights: {human(size)}, {given.layers} layers, {given.scheme}")
    child = [sys.executable, __file__, "--emit-only", "--out", str(given.out), "--layers", str(given.layers)]
    emitted = json.loads(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
    console.print(f"ONNX: {emitted['seconds']:.1f} s, {human(emitted['extra_rss'])} beyond the interpreter")
    shutil.rmtree(given.out / "onnx")
    start = time.perf_counter()
    sms = [int(sm) for sm in given.sm.split(",")]
    weights = EngineWeights(weight_files(given.out / "weights"))
    plans = compile_rtx(weights, config, given.out, limits=LIMITS, dtype="float16", sms=sms)
    seconds, highest = time.perf_counter() - start, max(plan.peak_rss for plan in plans.plans)
    console.print(plans_table(plans))
    console.print(f"plans: {seconds:.1f} s, at most {human(highest)} of RAM in the building process")
    figures = {"scheme": given.scheme, "sm": sms, "layers": given.layers, "weights": size, "onnx": emitted}
    print(json.dumps(figures | {"plans_seconds": seconds, "plans_peak_rss": highest, "own_peak_rss": peak_rss()}))


if __name__ == "__main__":
    main()
