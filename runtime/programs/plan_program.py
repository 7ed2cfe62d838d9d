"""The programs of engines that TensorRT compiled: a GPU program whose logits plans compute. One loader for each target."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from ingot.errors import EngineError
from ingot.manifest import Limits, Manifest, check_host
from ingot.network.config import ModelConfig
from ingot.plugins.attention.layers import PagedLayers
from ingot.plugins.attention.tensorrt_launch import KernelLaunch
from ingot.plugins.attention.tensorrt_plugin import MANIFEST_NAME, VERSION
from ingot.plugins.cuda_ops import check_supported
from ingot.plugins.dtypes import torch_dtype
from ingot.runtime.programs.cuda_forward import CudaForward
from ingot.runtime.programs.cuda_tables import CudaTables
from ingot.runtime.programs.gpu import GpuProgram
from ingot.runtime.programs.jit_cache import JitCache
from ingot.runtime.programs.plan_forward import PlanForward
from ingot.runtime.programs.tensors import read_tensors
from ingot.runtime.programs.whole_plan import WholePlan
from ingot.tensorrt_library import LIBRARIES

logger = logging.getLogger(__name__)


def load_plan_program(
    engine: Path, manifest: Manifest, *, num_pages: int | None = None, memory_share: float = 0.9
) -> GpuProgram:
    """The program of a checked engine of target tensorrt or tensorrt-rtx.

    Raises EngineError where there is no GPU, another one than the plans are for, or another version of the library;
    DependencyError without the library; CapacityError where the engine does not fit. Files are checked by whoever loads.
    """
    sm = check_gpu(engine, manifest)
    trt = LIBRARIES[manifest.target].load()
    versions = {LIBRARIES[manifest.target].package: trt.__version__}
    if manifest.target == "tensorrt":
        versions[MANIFEST_NAME] = VERSION
    check_host(engine, manifest, target=manifest.target, sm=sm, versions=versions)
    if num_pages is not None:
        manifest = msgspec.structs.replace(
            manifest, limits=msgspec.structs.replace(manifest.limits, num_pages=num_pages)
        )
    config = ModelConfig.from_hf(json.loads((engine / "config.json").read_text()))
    check_supported(config)
    # On the default stream TensorRT would synchronize the device at every call.
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.inference_mode():
        return plan_program(
            trt, engine, manifest, config, torch.device("cuda"), memory_share=memory_share, stream=stream
        )


def plan_program(
    trt: Any, engine: Path, manifest: Manifest, config: ModelConfig, device: torch.device, *, memory_share: float, stream: torch.cuda.Stream | None = None
) -> GpuProgram:  # fmt: skip
    """As load_plan_program, with nothing left to check."""
    limits, kv_dtype, caches = manifest.limits, torch_dtype(manifest.kv_dtype), list[Tensor]()
    tables = CudaTables(limits, device)
    make = segments if manifest.target == "tensorrt-rtx" else whole
    model: PlanForward | WholePlan = make(trt, engine, manifest, config, caches, device)
    forward = CudaForward(
        config, model, caches, tables, limits, kv_dtype, share=memory_share, error_mode="thread_local",
        graphs=model.capturable, most_pages=model.max_pages,
    )  # fmt: skip
    if model.jit is not None:
        model.jit.save()
    if not model.capturable:
        logger.warning("TensorRT-RTX says that %s cannot be captured in CUDA graphs: decode steps run without.", engine)
    return GpuProgram(config, limits, tables, forward, stream=stream)


def segments(
    trt: Any, engine: Path, manifest: Manifest, config: ModelConfig, caches: list[Tensor], device: torch.device
) -> PlanForward:
    """Plans that stop at attention."""
    tensors, limits = read_tensors(engine / "weights", str(device)), manifest.limits
    attention = PagedLayers(
        config, caches, kv_scales(tensors, config, manifest.kv_dtype), max_seqs=limits.max_num_seqs, dtype=torch_dtype(manifest.dtype),
        max_tokens=limits.max_num_batched_tokens, device=device,
    )  # fmt: skip
    return PlanForward(trt, engine, weights=tensors, attention=attention, jit=JitCache.of(manifest), device=device)


def whole(
    trt: Any, engine: Path, manifest: Manifest, config: ModelConfig, caches: list[Tensor], device: torch.device
) -> WholePlan:
    """One plan with attention inside."""
    limits = manifest.limits
    launch = KernelLaunch(
        max_seqs=limits.max_num_seqs, num_heads=config.num_heads, head_dim=config.head_dim, device=device
    )
    return WholePlan(
        trt, engine, caches, launch=launch, max_seqs=limits.max_num_seqs, max_pages=pages_per_sequence(limits), device=device
    )  # fmt: skip


def pages_per_sequence(limits: Limits) -> int:
    return -(-limits.max_model_len // limits.page_size)


def kv_scales(tensors: dict[str, Tensor], config: ModelConfig, kv_dtype: str) -> list[tuple[float, float]]:
    """Of keys and values by layer: what an FP8 cache's entries are multiplied by."""
    found = []
    for layer in range(config.num_layers):
        held = tensors.get(f"layers.{layer}.kv_scale") if kv_dtype == "float8_e4m3fn" else None
        key, value = (1.0, 1.0) if held is None else held.float().tolist()
        found.append((key, value))
    return found


def gpu() -> tuple[int, str] | None:
    """Compute capability, 89 for 8.9, and name of the GPU that torch sees."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor, torch.cuda.get_device_name()


def check_gpu(engine: Path, manifest: Manifest) -> int:
    """This GPU's compute capability. Raises EngineError, by name, where the plans are for others."""
    title, found = LIBRARIES[manifest.target].title, gpu()
    built = ", ".join(str(each / 10) for each in manifest.sm)
    if found is None:
        raise EngineError(
            f"{engine} holds {title} plans for GPUs of SM {built}; PyTorch sees no NVIDIA GPU here.",
            mend="Serve it where one is, or build for this machine: --target cpu.",
        )
    sm, name = found
    if sm not in manifest.sm:
        raise EngineError(
            f"{name} is SM {sm / 10}; the {title} plans of {engine} are for SM {built}.",
            mend="Build for this GPU: --target cuda, or --target tensorrt-rtx with its --sm where TensorRT-RTX knows it.",
        )
    return sm
