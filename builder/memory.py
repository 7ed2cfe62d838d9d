"""What an engine will hold in memory while it serves, and what a build needs before it starts. Arithmetic alone."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ingot.builder.recipe import Recipe
from ingot.errors import CapacityError, RecipeError
from ingot.manifest import Limits
from ingot.network.config import ModelConfig
from ingot.plugins.step_sizes import full_step_tokens

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}
HOST_LIMITS = {"max_num_seqs": 64, "max_num_batched_tokens": 2048}
PLAN_LIMITS = {"max_num_seqs": 256, "max_num_batched_tokens": 8192}  # of TensorRT's


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a build takes, in bytes."""

    disk: int  # under the cache
    out: int  # under the output folder
    ram: int

    def check(self, cache: Path, out: Path) -> None:
        """Raises CapacityError where a disk is too small. RAM is told, not checked: mapped files are given back under pressure."""
        places: dict[int, list[tuple[Path, int]]] = {}
        for place, need in ((cache, self.disk), (out, self.out)):
            real = existing_parent(place)
            places.setdefault(real.stat().st_dev, []).append((real, need))
        for found in places.values():
            need, free = sum(part for _, part in found), shutil.disk_usage(found[0][0]).free
            if need > free:
                raise CapacityError(
                    f"The build needs {human(need)} of disk at {found[0][0]}; {human(free)} are free.",
                    mend="Free some, or put the cache and the output elsewhere: --cache DIR, -o DIR.",
                )


def existing_parent(path: Path) -> Path:
    path = path.absolute()
    return next(parent for parent in (path, *path.parents) if parent.is_dir())


def kv_dtype_of(kv: str, dtype: str) -> str:
    return "float8_e4m3fn" if kv == "fp8" else dtype


def page_bytes(config: ModelConfig, page_size: int, kv_dtype: str) -> int:
    return config.kv_elements_per_token * page_size * DTYPE_BYTES[kv_dtype]


def plan_limits(recipe: Recipe, config: ModelConfig, *, target: str, kv_dtype: str) -> Limits:
    """Limits with every open knob chosen. On cpu the pool is fixed here: what all sequences could use, within kv_memory.

    Raises RecipeError for a length the model does not have, CapacityError where one sequence would not fit the pool.
    """
    usual = HOST_LIMITS if target == "cpu" else PLAN_LIMITS
    if target == "cuda":
        usual = {**usual, "max_num_batched_tokens": full_step_tokens(recipe.quant)}
    seqs = recipe.max_num_seqs or min(usual["max_num_seqs"], recipe.max_num_batched_tokens or usual["max_num_seqs"])
    tokens = recipe.max_num_batched_tokens or max(usual["max_num_batched_tokens"], seqs)
    length = recipe.max_model_len or config.max_position
    if length > config.max_position:
        raise RecipeError(
            f"--max-model-len {length} is past the {config.max_position} positions the model was made for.",
            mend=f"Give at most {config.max_position}.",
        )
    pages = None
    if target == "cpu":
        size = recipe.page_size
        room = recipe.kv_memory // page_bytes(config, size, kv_dtype)
        if recipe.max_model_len is None:
            length = min(length, room * size)
        if length < 2 or room * size < length:
            least = -(-length // size) * page_bytes(config, size, kv_dtype)
            raise CapacityError(
                f"A sequence of {length} tokens needs {human(least)} of KV; --kv-memory is {human(recipe.kv_memory)}.",
                mend="Raise --kv-memory or lower --max-model-len.",
            )
        pages = min(room, seqs * -(-length // size))
    return Limits(
        max_model_len=length,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        page_size=recipe.page_size,
        num_pages=pages,
    )


def memory_plan(config: ModelConfig, limits: Limits, *, weights: int, dtype: str, kv_dtype: str) -> dict[str, int]:
    """Bytes by purpose. Activations: the widest layer's buffers for a full step, and logits of every running sequence."""
    heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    widest = 3 * config.hidden_size + 2 * heads + 3 * config.intermediate_size
    plan = {
        "weights": weights,
        "activations": limits.max_num_batched_tokens * widest * DTYPE_BYTES[dtype],
        "logits": 2 * limits.max_num_seqs * config.vocab_size * 4,
    }
    if limits.num_pages is not None:
        plan["kv_pool"] = limits.num_pages * page_bytes(config, limits.page_size, kv_dtype)
    return plan


def needs(config: ModelConfig, *, checkpoint: int, quant: str, dtype: str) -> Needs:
    """Estimates of what a build of `checkpoint` bytes takes.

    Calibration holds the whole model; every other stage holds a layer, the embedding and what the verification of a
    chunk of text computes with.
    """
    plain = checkpoint * DTYPE_BYTES[dtype] // DTYPE_BYTES[config.dtype]
    share = {"none": 0.0, "fp8": 0.55, "fp8-dynamic": 0.55, "int8": 0.55, "int4": 0.35, "nvfp4": 0.35}[quant]
    quantized = int(share * checkpoint)
    embed = config.vocab_size * config.hidden_size * 4
    layer = (plain - 2 * embed) // config.num_layers if plain > 2 * embed else plain // config.num_layers
    ram = 2 * embed + 4 * layer + (1 << 30)
    if quant not in ("none", "fp8-dynamic"):
        ram = max(ram, 2 * checkpoint + (1 << 30))
    packed = plain if quant == "none" else int(quantized * 1.2) + embed
    return Needs(disk=quantized + packed, out=packed, ram=ram)


def human(size: float) -> str:
    """Bytes as people read them: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
