"""A Llama checkpoint with the random weights of `--random-weights`, so that another engine multiplies numbers of the same kind:

    python benchmarks/random_checkpoint.py CONFIG -o DIR [--quant fp8]

In fp8 it is what NVIDIA ModelOpt exports: e4m3 weights and inputs by one fixed scale a module, an FP8 KV cache.
Values matter: an engine's own dummy weights may be so small that an FP8 KV cache holds zeros and softmax is constant, and a GPU at
its power limit then runs faster (docs/performance.md has by how much).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import click
import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from ingot.builder.seal import replace_folder
from ingot.network.config import ModelConfig
from ingot.network.names import kv_scale_sources, sources
from ingot.network.weights import Weight
from ingot.plugins.random_weights import quantized_weights
from ingot.runtime.bench.subject import read_config

MARK = "made_by.txt"  # in a folder that this wrote, and so may write again
PRODUCER = {"name": "modelopt", "version": "0.47.0"}  # whose export is imitated
KEPT = ["lm_head", "model.embed_tokens"]  # as they are
FP8 = {"dynamic": False, "num_bits": 8, "type": "float"}
WEIGHTS = shutil.ignore_patterns("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")


def checkpoint(config: ModelConfig, weights: Mapping[str, Weight[Tensor]]) -> dict[str, Tensor]:
    """Under the checkpoints' names, on the CPU: what ingot stacks is apart again."""
    kv_rows = config.num_kv_heads * config.head_dim
    stacked = {"qkv": [config.num_heads * config.head_dim, kv_rows, kv_rows], "gate_up": [config.intermediate_size] * 2}
    found: dict[str, Tensor] = {}
    for name, modules in sources(config).items():
        weight = weights[name]
        for part, tensor in (("weight", weight.data), ("bias", weight.bias)):
            if tensor is not None:
                rows = stacked.get(name.rpartition(".")[2], [len(tensor)])
                apart = (own.clone().cpu() for own in tensor.split(rows))
                found |= {f"{module}.{part}": own for module, own in zip(modules, apart, strict=True)}
        for part, tensor in (("weight_scale", weight.weight_scale), ("input_scale", weight.input_scale)):
            if tensor is not None:  # one for all: every row of random weights has the same
                found |= {f"{module}.{part}": tensor.reshape(-1)[0].clone().cpu() for module in modules}
    return found


def kv_scales(config: ModelConfig) -> dict[str, Tensor]:
    """Of ones, as ours are without: ModelOpt exports none below."""
    return {name: torch.ones(()) for layer in range(config.num_layers) for name in kv_scale_sources(layer)}


def declare_fp8(folder: Path) -> None:
    """In config.json and in hf_quant_config.json, the one's words and the other's, as ModelOpt's export does."""
    details = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": KEPT}
    (folder / "hf_quant_config.json").write_text(json.dumps({"producer": PRODUCER, "quantization": details}, indent=2))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "config_groups": {"group_0": {"input_activations": FP8, "weights": FP8, "targets": ["Linear"]}},
        "ignore": KEPT, "quant_algo": "FP8", "kv_cache_scheme": FP8, "producer": PRODUCER, "quant_method": "modelopt",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2))


@click.command()
@click.argument("config", type=click.Path(exists=True, path_type=Path, file_okay=False))
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--quant", type=click.Choice(["none", "fp8"]), default="none", show_default=True)
def main(config: Path, out: Path, quant: str) -> None:
    """Writes it in bf16, or with linears in FP8, beside what CONFIG holds but weights."""
    shape = read_config(config)
    if shape.family != "llama":
        raise click.UsageError(f"{config} is a {shape.family} model's; this writes Llama's names. Give a Llama's.")
    if out.exists() and any(out.iterdir()) and not (out / MARK).is_file():
        raise click.UsageError(f"{out} holds files that this did not write, and would delete. Give another -o DIR.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    part = out.resolve().parent / f".{out.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(config, part, ignore=WEIGHTS)
    tensors = checkpoint(shape, quantized_weights(shape, quant, torch.bfloat16, device))
    if quant == "fp8":
        tensors |= kv_scales(shape)
        declare_fp8(part)
    save_torch_state_dict(tensors, part)
    (part / MARK).write_text(f"python benchmarks/random_checkpoint.py {config} -o {out} --quant {quant}\n")
    replace_folder(part, out.resolve())
    click.echo(f"{sum(path.stat().st_size for path in out.glob('*.safetensors')) / 1e9:.1f} GB in {out}")


if __name__ == "__main__":
    main()
