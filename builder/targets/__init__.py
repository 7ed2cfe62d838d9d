"""What a target adds to packed weights: kernels, plans or nothing. One module per target, imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from ingot.errors import DependencyError
from ingot.manifest import Limits
from ingot.network.config import ModelConfig

COMPILERS = {
    "cpu": "ingot.builder.targets.cpu:compile_engine",
    "cuda": "ingot.builder.targets.cuda:compile_engine",
    "tensorrt": "ingot.builder.targets.tensorrt:compile_engine",
    "tensorrt-rtx": "ingot.builder.targets.tensorrt_rtx:compile_engine",
}
LEAST_SM = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileJob:
    """Everything a compiler may look at."""

    config: ModelConfig
    weights: tuple[Path, ...]  # folders of packed *.safetensors: the weights, then KV scales where those lie apart
    limits: Limits
    dtype: str
    kv_dtype: str
    quant: str
    sms: tuple[int, ...] = ()  # compute capabilities asked for, where the target has a choice
    previous: Path | None = None  # the engine that this one will replace, where there is one
    advance: Callable[[int], None] = lambda layers: None  # told of work done, num_layers + 1 in all


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What a compiler has to say for the manifest. Its files lie in the folder it was given."""

    sm: list[int] = field(default_factory=list)  # compute capabilities, e.g. [90]
    versions: dict[str, str] = field(default_factory=dict)  # of what it compiled with
    memory: dict[str, int] = field(default_factory=dict)  # bytes by purpose, beyond the usual plan
    holds_weights: bool = False  # the engine needs no weights but those among the compiler's own files


Compiler = Callable[[CompileJob, Path], Compiled]


def compiler_of(target: str) -> Compiler:
    """Raises DependencyError where this ingot has no compiler for the target, or this machine lacks what it needs."""
    module, _, name = COMPILERS[target].partition(":")
    if find_spec(module) is None:
        have = [known for known, place in COMPILERS.items() if find_spec(place.partition(":")[0])]
        raise DependencyError(f"This ingot cannot compile for {target}.", mend=f"Use --target {' or '.join(have)}.")
    if target == "cuda" and resolve_target("auto") != "cuda":
        raise DependencyError(
            "This machine cannot compile for cuda: kernels are chosen by measuring them, and PyTorch sees no NVIDIA GPU.",
            mend="Build on the GPU that will serve, or with --target cpu.",
        )
    return cast(Compiler, getattr(import_module(module), name))


def resolve_target(asked: str) -> str:
    """auto: cuda where an NVIDIA GPU of SM >= 8.0 is present, cpu elsewhere."""
    if asked != "auto":
        return asked
    return "cuda" if (gpu_sm() or 0) >= LEAST_SM else "cpu"


def gpu_sm() -> int | None:
    """Compute capability of the NVIDIA GPU that torch sees, 89 for 8.9."""
    import torch

    if not torch.cuda.is_available() or torch.version.hip:
        return None
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor
