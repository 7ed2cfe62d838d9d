"""The cuda target's program: a GPU program whose logits fused kernels compute from canonical weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from ingot.errors import EngineError
from ingot.manifest import Limits, Manifest
from ingot.network.config import ModelConfig
from ingot.network.decoder import decoder, hidden_states
from ingot.network.ops import Ops
from ingot.network.weights import Weight
from ingot.plugins import compiling
from ingot.plugins.attention.step import CudaBatch
from ingot.plugins.cubin import use_cubins
from ingot.plugins.cuda_ops import CudaOps, check_supported
from ingot.plugins.dtypes import torch_dtype
from ingot.plugins.linear.launch import BUCKETS, Choices
from ingot.plugins.linear.tune import read_choices
from ingot.plugins.load import read_weights
from ingot.plugins.packed import use_pack
from ingot.runtime.programs.cuda_forward import CudaForward
from ingot.runtime.programs.cuda_tables import CudaTables
from ingot.runtime.programs.gpu import GpuProgram
from ingot.runtime.programs.tensors import read_tensors

CHOICES, CUBINS, PACK = "kernels/choices.json", "kernels/cubin", "kernels/triton"  # in an engine folder


def cuda_program(
    config: ModelConfig, weights: Mapping[str, Weight[Tensor]], limits: Limits, *, dtype: torch.dtype, kv_dtype: torch.dtype | None = None,
    choices: Choices | None = None, memory_share: float = 0.9, graphs: bool = True,
) -> GpuProgram:  # fmt: skip
    """Over weights that lie on the GPU. `limits.num_pages` None: measured. Without `graphs` every step runs eager, whatever the
    choices say."""
    check_supported(config)
    caches: list[Tensor] = []
    with torch.inference_mode():
        kernels = CudaOps(
            config,
            weights,
            caches,
            dtype=dtype,
            choices=choices,
            max_seqs=limits.max_num_seqs,
            max_position=limits.max_model_len,
        )
        ops: Ops[Any] = kernels
        variants = kernels.choices.variants
        tables = CudaTables(limits, weights["embed"].data.device)

        def open_model(batch: CudaBatch) -> tuple[Tensor, Tensor]:
            hidden = hidden_states(ops, config, batch)
            return ops.logits("lm_head", ops.wanted_rows(hidden, batch)), hidden

        forward = CudaForward(
            config, lambda batch: decoder(ops, config, batch), caches, tables, limits, kv_dtype or dtype, share=memory_share, graphs=graphs,
            open_model=open_model, row_buckets=BUCKETS, mixed_tokens=variants.mixed_tokens, drawn_rows=variants.drawn_rows,
            decode_sizes=variants.decode_sizes,
        )  # fmt: skip
    return GpuProgram(config, limits, tables, forward)


def load_cuda_program(
    engine: Path, manifest: Manifest, *, num_pages: int | None = None, memory_share: float = 0.9
) -> GpuProgram:
    """Reads the engine's weights straight into GPU memory. Raises EngineError where files do not make the promised model or
    the GPU is not what it was built for, CapacityError where it does not fit. Nothing is tuned and nothing compiled: every
    kernel comes with the engine."""
    check_device(engine, manifest)
    use_cubins(engine / CUBINS)
    use_pack(engine / PACK)
    config = ModelConfig.from_hf(json.loads((engine / "config.json").read_text()))
    limits = manifest.limits
    if num_pages is not None:
        limits = msgspec.structs.replace(limits, num_pages=num_pages)
    choices = read_choices(engine / CHOICES) if (engine / CHOICES).exists() else None
    weights = read_weights(read_tensors(engine / "weights", "cuda"), config)
    with compiling.refused():
        return cuda_program(
            config, weights, limits, dtype=torch_dtype(manifest.dtype), kv_dtype=torch_dtype(manifest.kv_dtype), choices=choices,
            memory_share=memory_share,
        )  # fmt: skip


def check_device(engine: Path, manifest: Manifest) -> None:
    if not torch.cuda.is_available():
        raise EngineError(f"{engine} needs an NVIDIA GPU; PyTorch sees none here.", mend="Build it with --target cpu.")
    major, minor = torch.cuda.get_device_capability()
    if manifest.sm and 10 * major + minor not in manifest.sm:
        built = ", ".join(str(sm / 10) for sm in manifest.sm)
        raise EngineError(
            f"{engine} was built for compute capability {built}; this GPU has {major}.{minor}.",
            mend=f"Build it on this machine: {manifest.rebuild}",
        )
