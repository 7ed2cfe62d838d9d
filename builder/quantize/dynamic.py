"""fp8-dynamic: FP8 weights with a scale per output channel, inputs rounded per token when they come. No calibration.

Streams tensor by tensor: memory holds one linear at a time. What it writes is compressed-tensors' "float-quantized"
format (quantization_config of llm-compressor's FP8_DYNAMIC recipe), which vLLM loads.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ingot import __version__
from ingot.builder.checkpoint import Checkpoint
from ingot.builder.shards import ShardWriter
from ingot.network.config import ModelConfig
from ingot.network.names import layer_sources
from ingot.network.weights import LINEARS
from ingot.plugins.quantize.reference import FP8_MAX, quantize_fp8, row_scale

BLOCK = 1 << 19  # weights widened to float32 at a time


def quantize_dynamic(checkpoint: Checkpoint, config: ModelConfig, folder: Path, advance: Callable[[int], None]) -> None:
    """Writes the quantized checkpoint to `folder`. `advance` is told the bytes read."""
    quantized = {f"{module}.weight" for layer in range(config.num_layers) for module in linear_modules(config, layer)}
    with ShardWriter(folder, index=True) as shards:
        for name, info in sorted(checkpoint.tensors.items()):
            tensor = checkpoint.read(name)
            if name in quantized:
                data, scale = quantize_rows(tensor)
                shards.add(name, data)
                shards.add(f"{name}_scale", scale.unsqueeze(1))
            else:
                shards.add(name, tensor)
            advance(info.nbytes)
    for path in [*checkpoint.kept_files(), *checkpoint.text_files()]:
        shutil.copyfile(path, folder / path.name)
    described = {**checkpoint.config, "quantization_config": quantization_config()}
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")


def linear_modules(config: ModelConfig, layer: int) -> list[str]:
    """Names of the nn.Linear modules of one layer."""
    modules = layer_sources(config, layer)
    return [module for kind in LINEARS for module in modules[f"layers.{layer}.{kind}"]]


def quantize_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, K) -> e4m3 (N, K) and float32 scales (N,), a block of rows at a time."""
    data = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    scales = torch.empty(weight.shape[0], dtype=torch.float32)
    height = max(1, BLOCK // weight.shape[1])
    for start in range(0, weight.shape[0], height):
        block = slice(start, start + height)
        rows = weight[block].float()
        scales[block] = row_scale(rows, FP8_MAX)
        data[block] = quantize_fp8(rows, scales[block].unsqueeze(1))
    return data, scales


def quantization_config() -> dict[str, Any]:
    common = {"num_bits": 8, "type": "float", "symmetric": True, "group_size": None, "block_structure": None}
    group = {
        "targets": ["Linear"],
        "weights": {**common, "strategy": "channel", "dynamic": False, "observer": "minmax"},
        "input_activations": {**common, "strategy": "token", "dynamic": True, "observer": None},
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "producer": {"name": "ingot", "version": __version__},
    }
