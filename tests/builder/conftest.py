"""Small random checkpoints, written without transformers so that most tests start in a moment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ingot.network.config import ModelConfig
from ingot.network.names import sources
from ingot.network.weights import LINEARS, linear_shape

WriteCheckpoint = Callable[..., Path]
VOCAB = 256
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "eos_token_id": 0,
}
TEXT = "The boats go out before it is light. By noon they are back, low in the water if the night was kind. " * 4


def write_tokenizer(folder: Path) -> None:
    """One token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


def random_tensors(config: ModelConfig, seed: int) -> dict[str, torch.Tensor]:
    """Weights whose logits have a standard deviation between one and two, as a trained model's might."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, modules in sources(config).items():
        kind = name.rpartition(".")[2]
        for module in modules:
            if kind in LINEARS:
                rows, columns = linear_shape(config, kind)
                rows = module_rows(config, module, rows)
                weight = torch.randn(rows, columns, generator=generator) * columns**-0.5
                if config.qkv_bias and kind == "qkv":
                    tensors[f"{module}.bias"] = torch.randn(rows, generator=generator).bfloat16()
            elif kind in ("embed", "lm_head"):
                weight = torch.randn(config.vocab_size, config.hidden_size, generator=generator) * (
                    0.1 if kind == "lm_head" else 0.5
                )
            else:
                size = config.head_dim if kind in ("q_norm", "k_norm") else config.hidden_size
                weight = 1 + 0.1 * torch.randn(size, generator=generator)
            tensors[f"{module}.weight"] = weight.bfloat16()
    return tensors


def module_rows(config: ModelConfig, module: str, fused: int) -> int:
    rows = {
        "q_proj": config.num_heads * config.head_dim,
        "k_proj": config.num_kv_heads * config.head_dim,
        "v_proj": config.num_kv_heads * config.head_dim,
        "gate_proj": config.intermediate_size,
        "up_proj": config.intermediate_size,
    }
    return rows.get(module.rpartition(".")[2], fused)


@pytest.fixture(scope="session")
def write_checkpoint() -> WriteCheckpoint:
    """write_checkpoint(folder, seed=0, **config fields) -> folder."""

    def write(folder: Path, *, seed: int = 0, **fields: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        hf = {**LLAMA, **fields}
        (folder / "config.json").write_text(json.dumps(hf))
        save_file(
            random_tensors(ModelConfig.from_hf(hf), seed), folder / "model.safetensors", metadata={"format": "pt"}
        )
        write_tokenizer(folder)
        for name in ("calibration", "heldout"):
            (folder / f"{name}.jsonl").write_text(
                "".join(json.dumps({"text": TEXT[i:]}) + "\n" for i in range(0, 40, 10))
            )
        return folder

    return write


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory, write_checkpoint: WriteCheckpoint) -> Path:
    """A random Llama of two layers. Not to be written to."""
    return write_checkpoint(tmp_path_factory.mktemp("llama") / "llama")
