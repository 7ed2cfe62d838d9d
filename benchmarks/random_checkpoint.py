"""A Llama checkpoint with the random weights of `--random-weights`, so that another engine multiplies numbers of the same kind:

    python benchmarks/random_checkpoint.py CONFIG -o DIR

Values matter: an engine's own dummy weights may be so small that an FP8 KV cache holds zeros and softmax is constant, and a GPU at
its power limit then runs faster (docs/performance.md has by how much).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import click
import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from ingot.builder.seal import replace_folder
from ingot.network.config import ModelConfig
from ingot.network.names import sources
from ingot.network.weights import Scheme, Weight
from ingot.plugins.random_weights import random_weights
from ingot.runtime.bench.subject import read_config

MARK = "made_by.txt"  # in a folder that this wrote, and so may write again
WEIGHTS = shutil.ignore_patterns("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")


def checkpoint(config: ModelConfig, weights: Mapping[str, Weight[Tensor]]) -> dict[str, Tensor]:
    """Under the checkpoints' names, on the CPU: what ingot stacks is apart again."""
    kv_rows = config.num_kv_heads * config.head_dim
    stacked = {"qkv": [config.num_heads * config.head_dim, kv_rows, kv_rows], "gate_up": [config.intermediate_size] * 2}
    found: dict[str, Tensor] = {}
    for name, modules in sources(config).items():
        for part, tensor in (("weight", weights[name].data), ("bias", weights[name].bias)):
            if tensor is not None:
                rows = stacked.get(name.rpartition(".")[2], [len(tensor)])
                apart = (own.clone().cpu() for own in tensor.split(rows))
                found |= {f"{module}.{part}": own for module, own in zip(modules, apart, strict=True)}
    return found


@click.command()
@click.argument("config", type=click.Path(exists=True, path_type=Path, file_okay=False))
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False, path_type=Path))
def main(config: Path, out: Path) -> None:
    """Writes it in bf16, beside what CONFIG holds but weights."""
    shape = read_config(config)
    if shape.family != "llama":
        raise click.UsageError(f"{config} is a {shape.family} model's; this writes Llama's names. Give a Llama's.")
    if out.exists() and any(out.iterdir()) and not (out / MARK).is_file():
        raise click.UsageError(f"{out} holds files that this did not write, and would delete. Give another -o DIR.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    part = out.resolve().parent / f".{out.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(config, part, ignore=WEIGHTS)
    save_torch_state_dict(checkpoint(shape, random_weights(shape, Scheme.NONE, torch.bfloat16, device)), part)
    (part / MARK).write_text(f"python benchmarks/random_checkpoint.py {config} -o {out}\n")
    replace_folder(part, out.resolve())
    click.echo(f"{sum(path.stat().st_size for path in out.glob('*.safetensors')) / 1e9:.1f} GB in {out}")


if __name__ == "__main__":
    main()
