"""An engine folder of a model's shape with random weights, to measure loading and serving where no checkpoint is at hand:

    python benchmarks/random_engine.py CONFIG -o DIR [--quant fp8] [--kv fp8]

Weights are made on the GPU where there is one, and compiled by the target's own compiler; the tokenizer is the bundled
model's, whose ids are among the larger model's. Quality is not verified: there is nothing to compare with.
"""

from __future__ import annotations

import platform
import shutil
from datetime import UTC, datetime
from pathlib import Path

import click
import torch

from ingot.builder.memory import human, kv_dtype_of, memory_plan, plan_limits
from ingot.builder.recipe import Recipe
from ingot.builder.seal import check_out, replace_folder
from ingot.builder.shards import ShardWriter
from ingot.builder.targets import CompileJob, compiler_of, resolve_target
from ingot.manifest import FORMAT_VERSION, Limits, Manifest, record_files
from ingot.network.config import ModelConfig
from ingot.plugins.load import PARTS
from ingot.plugins.random_weights import quantized_weights
from ingot.runtime.bench.commands import QUANTS
from ingot.runtime.bench.subject import read_config

TOKENIZER = Path(__file__).resolve().parents[1] / "examples" / "tiny"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def write_weights(folder: Path, config: ModelConfig, quant: str, dtype: torch.dtype) -> int:
    """Bytes written."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with ShardWriter(folder) as shards:
        for name, weight in quantized_weights(config, quant, dtype, device).items():
            shards.add(f"{name}.weight", weight.data.cpu())
            for part in PARTS:
                tensor = getattr(weight, part)
                if tensor is not None:
                    shards.add(f"{name}.{part}", tensor.cpu())
    torch.cuda.empty_cache()
    return shards.nbytes


def write_engine(out: Path, place: Path, recipe: Recipe) -> Manifest:
    """Fills `out`, which an engine of before makes room for. Raises RecipeError and CapacityError as a build does."""
    check_out(out)
    config, target = read_config(place), resolve_target(recipe.target)
    dtype = "bfloat16" if target == "cuda" else "float32"
    kv_dtype = kv_dtype_of(recipe.kv, dtype)
    limits: Limits = plan_limits(recipe, config, target=target, kv_dtype=kv_dtype)
    part = out.resolve().parent / f".{out.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    size = write_weights(part / "weights", config, recipe.quant, getattr(torch, dtype))
    job = CompileJob(
        config=config, weights=(part / "weights",), limits=limits, dtype=dtype, kv_dtype=kv_dtype, quant=recipe.quant
    )
    compiled = compiler_of(target)(job, part)
    shutil.copyfile(place / "config.json" if place.is_dir() else place, part / "config.json")
    for name in TOKENIZER_FILES:
        shutil.copyfile(TOKENIZER / name, part / name)
    manifest = Manifest(
        format_version=FORMAT_VERSION, name=out.name, target=target, sm=compiled.sm, source={"random": str(place)},
        recipe=recipe.public(), dtype=dtype, kv_dtype=kv_dtype, limits=limits,
        memory=memory_plan(config, limits, weights=size, dtype=dtype, kv_dtype=kv_dtype), quality=None,
        versions={"python": platform.python_version(), "torch": str(torch.__version__), **compiled.versions},
        files=record_files(part), rebuild=f"python benchmarks/random_engine.py {place} -o {out}",
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    manifest.write(part)
    replace_folder(part, out.resolve())
    return manifest


@click.command()
@click.argument("config", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--quant", type=click.Choice(QUANTS), default="none", show_default=True)
@click.option("--kv", type=click.Choice(["auto", "fp8"]), default="auto", show_default=True)
@click.option("--max-model-len", type=click.IntRange(2), default=8192, show_default=True)
@click.option("--max-num-seqs", type=click.IntRange(1), help="Default: 64 on a CPU, 256 on a GPU.")
def main(config: Path, out: Path, quant: str, kv: str, max_model_len: int, max_num_seqs: int | None) -> None:
    """Writes an engine of CONFIG's shape to DIR."""
    length = min(max_model_len, read_config(config).max_position)
    recipe = Recipe(
        model=str(config), out=str(out), quant=quant, kv=kv, max_model_len=length, max_num_seqs=max_num_seqs
    )
    with torch.inference_mode():
        manifest = write_engine(out, config, recipe)
    size = sum(record.size for record in manifest.files.values())
    click.echo(f"{out}: {manifest.target}, {human(size)} in {len(manifest.files)} files")


if __name__ == "__main__":
    main()
