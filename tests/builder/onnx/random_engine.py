"""Small engines with random weights, of every family and scheme: the weights folder that the ONNX emitter reads."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ingot.network.config import Llama3Rope, ModelConfig
from ingot.network.names import sources
from ingot.network.weights import LINEARS, Scheme, linear_shape
from ingot.plugins.load import has_bias, weight_shape
from ingot.plugins.quantize.reference import (
    FP8_MAX,
    INT8_MAX,
    quantize_fp8,
    quantize_int4,
    quantize_int8,
    quantize_nvfp4,
    row_scale,
)

LLAMA3 = Llama3Rope(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=32)


def config(family: str = "llama", *, layers: int = 2) -> ModelConfig:
    """Two query heads per KV head, K a multiple of INT4's group, and what makes the family what it is."""
    return ModelConfig(
        family=family,
        vocab_size=96,
        hidden_size=128,
        intermediate_size=256,
        num_layers=layers,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        max_position=64,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        rope_scaling=LLAMA3 if family == "llama" else None,
        windows=(6 if family == "mistral" else 0,) * layers,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        tie_embeddings=family in ("qwen2", "qwen3"),
    )


def write_engine(
    folder: Path,
    config: ModelConfig,
    scheme: Scheme = Scheme.NONE,
    *,
    static_inputs: bool = False,
    pre_scales: bool = False,
    kv_scales: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes folder/weights/model.safetensors; `static_inputs` gives linears an input_scale, `pre_scales` a pre_scale."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    tensors: dict[str, Tensor] = {}
    for name in sources(config):
        kind = name.rpartition(".")[2]
        if kind not in LINEARS:
            shape = weight_shape(config, name)
            tensors[f"{name}.weight"] = (normal(*shape) if len(shape) == 2 else 1 + 0.1 * normal(*shape)).to(dtype)
            continue
        rows, columns = linear_shape(config, kind)
        spread = 0.5 + torch.rand(rows, 1, generator=generator)  # rows of different scales
        tensors |= quantized(name, normal(rows, columns) * spread / columns**0.5, scheme, dtype)
        if has_bias(config, name):
            tensors[f"{name}.bias"] = normal(rows).to(dtype)
        if static_inputs:
            tensors[f"{name}.input_scale"] = torch.tensor(8.0 / FP8_MAX if scheme is Scheme.FP8 else 8.0 / INT8_MAX)
        if pre_scales:
            tensors[f"{name}.pre_scale"] = 0.5 + torch.rand(columns, generator=generator)
    if kv_scales:
        tensors |= {f"layers.{i}.kv_scale": torch.tensor([0.02, 0.03]) for i in range(config.num_layers)}
    (folder / "weights").mkdir(parents=True)
    save_file(tensors, folder / "weights" / "model.safetensors")
    return folder


def quantized(name: str, weight: Tensor, scheme: Scheme, dtype: torch.dtype) -> dict[str, Tensor]:
    match scheme:
        case Scheme.NONE:
            return {f"{name}.weight": weight.to(dtype)}
        case Scheme.FP8 | Scheme.INT8:
            scale = row_scale(weight, FP8_MAX if scheme is Scheme.FP8 else INT8_MAX)
            quantize = quantize_fp8 if scheme is Scheme.FP8 else quantize_int8
            return {f"{name}.weight": quantize(weight, scale.unsqueeze(-1)), f"{name}.weight_scale": scale}
        case Scheme.INT4:
            packed, scale = quantize_int4(weight)
            return {f"{name}.weight": packed, f"{name}.weight_scale": scale}
        case Scheme.NVFP4:
            third = -(-weight.shape[0] // 3)  # fused parts keep their own second-level scale
            parts = [quantize_nvfp4(part) for part in weight.split(third)]
            packed, blocks, second = (torch.cat(columns) for columns in zip(*parts, strict=True))
            return {f"{name}.weight": packed, f"{name}.weight_scale": blocks, f"{name}.weight_scale_2": second}
