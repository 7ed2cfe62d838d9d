"""What is measured: a loaded program and the facts about it that results need. From an engine folder, or from a config alone."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch
from safetensors import safe_open
from torch import Tensor

from ingot.errors import EngineError, RecipeError
from ingot.manifest import Limits, check_files, read_manifest
from ingot.network.config import ModelConfig
from ingot.network.weights import Scheme, Weight
from ingot.plugins.dtypes import torch_dtype
from ingot.plugins.load import PARTS, scheme_of
from ingot.plugins.random_weights import quantized_weights
from ingot.plugins.step_sizes import full_step_tokens
from ingot.runtime.bench.ceilings import NAMES, Ceilings, measure_ceilings
from ingot.runtime.bench.limit import Costs, model_costs
from ingot.runtime.load import calm_garbage_collection
from ingot.runtime.plan import Program
from ingot.runtime.programs import load_program

if TYPE_CHECKING:
    from ingot.plugins.linear.launch import Choices

CPU_KV_BYTES = 1 << 30
CPU_SEQS, GPU_SEQS = 64, 1024
CPU_TOKENS = 2048
CPU_PAGE, GPU_PAGE = 16, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomModel:
    """An engine that exists in memory alone. None: as usual for the machine."""

    config: Path  # a config.json, or a folder that has one
    quant: str = "none"
    kv: str = "auto"
    max_model_len: int = 8192
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    mixed_tokens: int | None = None  # these two: of plugins/variants.py; None: as a build has it
    drawn_rows: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Close its program after use."""

    program: Program
    config: ModelConfig
    limits: Limits
    quant: str  # as a build's --quant
    dtype: torch.dtype
    kv_dtype: torch.dtype
    device: torch.device
    ceilings: Ceilings
    load_seconds: float

    @property
    def mode(self) -> str:
        """bf16, fp8kv, fp8kv-dynamic and the like: the weights' scheme, or the dtype where they have none; kv where the cache is FP8."""
        name = NAMES[self.dtype] if self.scheme is Scheme.NONE else self.scheme.value
        return (
            name + ("kv" if self.kv_dtype == torch.float8_e4m3fn else "") + self.quant.removeprefix(self.scheme.value)
        )

    @property
    def scheme(self) -> Scheme:
        return Scheme.of(self.quant)

    @property
    def costs(self) -> Costs:
        return model_costs(
            self.config, self.scheme, itemsize=self.dtype.itemsize, rate=NAMES[self.dtype], kv_itemsize=self.kv_dtype.itemsize,
            max_num_seqs=self.program.max_num_seqs, pool_tokens=self.program.num_pages * self.program.page_size,
            widened=self.device.type == "cpu",
        )  # fmt: skip


def load_engine(folder: Path) -> Subject:
    """Raises EngineError where the folder is damaged or was built for something else."""
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    device = torch.device("cuda" if manifest.target != "cpu" else "cpu")
    dtype = torch_dtype(manifest.dtype)
    ceilings = measure_ceilings(device, dtype) if device.type == "cuda" and torch.cuda.is_available() else None
    begin = time.perf_counter()
    program = load_program(folder, manifest)
    seconds = time.perf_counter() - begin
    calm_garbage_collection()
    return Subject(
        program=program, config=read_config(folder), limits=manifest.limits, quant=stored_quant(folder), dtype=dtype,
        kv_dtype=torch_dtype(manifest.kv_dtype), device=device, load_seconds=seconds,
        # On a CPU it is the program that sets the number of threads.
        ceilings=measure_ceilings(device, dtype) if ceilings is None else ceilings,
    )  # fmt: skip


def load_random(model: RandomModel) -> Subject:
    """The shape of a model with random weights, on the GPU where there is one. Kernels are chosen as a build chooses them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and (model.mixed_tokens or model.drawn_rows):
        raise RecipeError(
            "--mixed-tokens and --drawn-rows are about CUDA graphs; PyTorch sees no NVIDIA GPU here.",
            mend="Leave them out, or measure on a GPU.",
        )
    config = read_config(model.config)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    kv_dtype = torch.float8_e4m3fn if model.kv == "fp8" else dtype
    limits = plan_limits(model, config, device, kv_dtype)
    ceilings = measure_ceilings(device, dtype)
    begin = time.perf_counter()
    with torch.inference_mode():
        if device.type == "cpu":
            made = reference_program(config, model.quant, limits, dtype, kv_dtype)
        else:
            made = tuned_program(config, model, limits, dtype, kv_dtype)
    subject = Subject(
        program=made, config=config, limits=limits, quant=model.quant, dtype=dtype, kv_dtype=kv_dtype, device=device,
        ceilings=ceilings, load_seconds=time.perf_counter() - begin,
    )  # fmt: skip
    calm_garbage_collection()
    return subject


def reference_program(
    config: ModelConfig, quant: str, limits: Limits, dtype: torch.dtype, kv_dtype: torch.dtype
) -> Program:
    from ingot.runtime.programs.cpu import CpuProgram

    weights = quantized_weights(config, quant, dtype, torch.device("cpu"))
    return CpuProgram(config, weights, limits, dtype=dtype, kv_dtype=kv_dtype)


def tuned_program(
    config: ModelConfig, model: RandomModel, limits: Limits, dtype: torch.dtype, kv_dtype: torch.dtype
) -> Program:
    from ingot.runtime.programs.cuda import cuda_program

    weights = quantized_weights(config, model.quant, dtype, torch.device("cuda"))
    choices = tuned_choices(config, weights, limits, dtype, kv_dtype)
    variants = choices.variants
    if model.mixed_tokens is not None:
        variants = replace(variants, mixed_tokens=model.mixed_tokens)
    if model.drawn_rows is not None:
        variants = replace(variants, drawn_rows=model.drawn_rows)
    choices = replace(choices, variants=variants)
    torch.cuda.empty_cache()
    return cuda_program(config, weights, limits, dtype=dtype, kv_dtype=kv_dtype, choices=choices)


def tuned_choices(
    config: ModelConfig, weights: Mapping[str, Weight[Tensor]], limits: Limits, dtype: torch.dtype, kv_dtype: torch.dtype
) -> Choices:  # fmt: skip
    """What a build would find and an engine would keep: see builder/targets/cuda.py."""
    from ingot.plugins.cuda_ops import usable
    from ingot.plugins.linear.launch import BUCKETS
    from ingot.plugins.tune import tune_engine

    ready = {name: usable(weight, dtype) for name, weight in weights.items() if "kv_scale" not in name}
    rows = [size for size in BUCKETS if size <= min(256, limits.max_num_batched_tokens)]
    return tune_engine(
        config, ready, rows, dtype, kv_dtype, page=limits.page_size, tokens=limits.max_num_batched_tokens, seqs=limits.max_num_seqs
    )  # fmt: skip


def plan_limits(model: RandomModel, config: ModelConfig, device: torch.device, kv_dtype: torch.dtype) -> Limits:
    """Raises RecipeError where a step could not hold one token of every sequence."""
    on_cpu = device.type == "cpu"
    seqs = model.max_num_seqs or (CPU_SEQS if on_cpu else GPU_SEQS)
    tokens = model.max_num_batched_tokens or (CPU_TOKENS if on_cpu else full_step_tokens(model.quant))
    if tokens < seqs:
        raise RecipeError(
            f"--max-num-batched-tokens {tokens} is less than one token for each of {seqs} sequences.",
            mend="Raise it, or lower --max-num-seqs.",
        )
    length = min(model.max_model_len, config.max_position)
    limits = Limits(
        max_model_len=length,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        page_size=CPU_PAGE if on_cpu else GPU_PAGE,
    )
    if not on_cpu:
        return limits
    each = -(-length // CPU_PAGE)
    room = CPU_KV_BYTES // (config.kv_elements_per_token * CPU_PAGE * kv_dtype.itemsize)
    return msgspec.structs.replace(limits, num_pages=max(each, min(room, seqs * each)))


def read_config(place: Path) -> ModelConfig:
    """Raises EngineError where there is no such file or it is no configuration."""
    path = place / "config.json" if place.is_dir() else place
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} is not a readable config.json: {error}.", mend="Name one, or its folder.") from error
    return ModelConfig.from_hf(found)


def stored_quant(folder: Path) -> str:
    """What a build's --quant calls the first layer's linears, as the engine's weights have them."""
    name = "layers.0.qkv"
    for path in sorted((folder / "weights").glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            keys = set(file.keys())
            if f"{name}.weight" in keys:
                parts = {part: file.get_tensor(f"{name}.{part}") for part in PARTS if f"{name}.{part}" in keys}
                scheme = scheme_of(name, file.get_tensor(f"{name}.weight"), parts)
                return scheme.value + ("-dynamic" if scheme is Scheme.FP8 and "input_scale" not in parts else "")
    raise EngineError(f"{folder} lacks the tensor {name}.weight.", mend="Build it again.")
