"""Small random Hugging Face checkpoints of every family, and the reading of them by canonical names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ingot.network.config import ModelConfig
from ingot.network.names import sources
from ingot.network.weights import Weight
from ingot.plugins.load import read_weights

SMALL: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# name -> (configuration class of transformers, its fields beyond SMALL)
CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("LlamaConfig", {"num_key_value_heads": 4}),
    "llama3": ("LlamaConfig", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    "llama-bias": ("LlamaConfig", {"attention_bias": True, "head_dim": 24}),
    "mistral": ("MistralConfig", {"sliding_window": 8}),
    "qwen2": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 2}),
    "qwen3": ("Qwen3Config", {"head_dim": 32, "tie_word_embeddings": True}),
}


def save(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Writes the checkpoint `name` into `folder`; returns transformers' model of it, whose biases and norms are not trivial."""
    import transformers

    kind, fields = CHECKPOINTS[name]
    torch.manual_seed(len(name))
    config = getattr(transformers, kind)(**SMALL | fields)
    model = getattr(transformers, kind.replace("Config", "ForCausalLM"))(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias") or "norm" in key:
                parameter += 0.2 * torch.randn_like(parameter)
    model = model.to(dtype)
    model.save_pretrained(folder)
    return model


def read(folder: Path) -> tuple[ModelConfig, dict[str, Weight[Tensor]]]:
    config = ModelConfig.from_hf(json.loads((folder / "config.json").read_text()))
    return config, read_weights(canonical(load_file(folder / "model.safetensors"), config), config)


def canonical(tensors: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """An unquantized checkpoint's tensors under ingot's names."""
    found = {}
    for name, modules in sources(config).items():
        for part in ("weight", "bias"):
            if f"{modules[0]}.{part}" in tensors:
                found[f"{name}.{part}"] = torch.cat([tensors[f"{module}.{part}"] for module in modules])
    return found
