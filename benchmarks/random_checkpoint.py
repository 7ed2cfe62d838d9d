"""A Llama checkpoint with the random weights of `--random-weights`, so that another engine multiplies the same numbers:

    python benchmarks/random_checkpoint.py CONFIG -o DIR

Values matter: an engine's own dummy weights may be so small that an FP8 KV cache holds zeros and softmax ones, and a GPU at
its power limit then runs faster (docs/performance.md has by how much).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from ingot.builder.seal import replace_folder
from ingot.network.config import ModelConfig
from ingot.network.weights import Scheme
from ingot.plugins.random_weights import random_weights
from ingot.runtime.bench.subject import read_config

WHOLE = {
    "embed": "model.embed_tokens", "final_norm": "model.norm", "lm_head": "lm_head", "o": "self_attn.o_proj", "down": "mlp.down_proj",
    "input_norm": "input_layernorm", "post_norm": "post_attention_layernorm",
}  # fmt: skip


def parts_of(config: ModelConfig, kind: str) -> dict[str, int]:
    """What is stacked in a weight, by transformers' names, and the rows of each."""
    kv_rows = config.num_kv_heads * config.head_dim
    return {
        "qkv": {"self_attn.q_proj": config.num_heads * config.head_dim, "self_attn.k_proj": kv_rows, "self_attn.v_proj": kv_rows},
        "gate_up": {"mlp.gate_proj": config.intermediate_size, "mlp.up_proj": config.intermediate_size},
    }.get(kind, {})  # fmt: skip


def llama_names(config: ModelConfig, name: str, data: Tensor) -> Iterator[tuple[str, Tensor]]:
    """One weight of ours ("layers.3.qkv") under the names that transformers' Llama has for its parts."""
    prefix, _, kind = name.rpartition(".")
    place = f"model.{prefix}." if prefix else ""
    stacked = parts_of(config, kind)
    if not stacked:
        yield f"{place}{WHOLE[kind]}.weight", data
    for part, rows in zip(stacked, data.split(list(stacked.values())), strict=True) if stacked else ():
        yield f"{place}{part}.weight", rows.clone()


@click.command()
@click.argument("config", type=click.Path(exists=True, path_type=Path, file_okay=False))
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False, path_type=Path))
def main(config: Path, out: Path) -> None:
    """Writes it in bf16, beside what CONFIG holds."""
    shape = read_config(config)
    if shape.family != "llama":
        raise click.UsageError(f"{config} is a {shape.family} model's; this writes Llama's names. Give a Llama's.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    part = out.resolve().parent / f".{out.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(config, part)
    weights = random_weights(shape, Scheme.NONE, torch.bfloat16, device).items()
    save_torch_state_dict(
        {key: rows.cpu() for name, weight in weights for key, rows in llama_names(shape, name, weight.data)}, part
    )
    replace_folder(part, out)
    click.echo(f"{sum(path.stat().st_size for path in out.glob('*.safetensors')) / 1e9:.1f} GB in {out}")


if __name__ == "__main__":
    main()
