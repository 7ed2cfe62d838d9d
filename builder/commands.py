"""`ingot build`, `inspect` and `verify`. Knows the command line; the work is done by the modules it calls."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from ingot.builder.recipe import Recipe, option
from ingot.builder.stages import DEFAULT_CACHE
from ingot.errors import QualityError
from ingot.manifest import check_files, read_manifest

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class ByteSize(click.ParamType[int]):
    """A number of bytes, with a unit: 1073741824, 512MiB, 4G."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", value.strip().lower())
        if not match:
            self.fail(f"{value!r} is not a size; write 512MiB or 4G.", param, ctx)
        return int(float(match[1]) * UNITS[match[2]])


TYPES: dict[str, Any] = {"int": int, "int | None": int, "float | None": float, "str": str, "str | None": str}


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """One option per knob of the recipe: names, defaults, choices and help all come from there."""
    for spec in reversed(dataclasses.fields(Recipe)):
        if not spec.metadata:
            continue
        kind: dict[str, Any] = {"type": TYPES.get(str(spec.type))}
        if spec.type == "bool":
            kind = {"is_flag": True}
        elif spec.metadata["choices"]:
            kind = {"type": click.Choice(spec.metadata["choices"])}
        elif spec.name == "kv_memory":
            kind = {"type": ByteSize()}
        shown = spec.default is not None and spec.type != "bool"
        if spec.metadata["secret"]:
            kind["envvar"] = "HF_TOKEN"
        command = click.option(
            option(spec.name), default=spec.default, help=spec.metadata["help"], show_default=shown, **kind
        )(command)
    return command


@click.command()
@click.argument("model")
@click.option("-o", "--out", required=True, metavar="DIR", help="The engine's folder.")
@recipe_options
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=DEFAULT_CACHE,
    show_default=True,
    help="Folder of finished stages.",
)
@click.option(
    "--export", type=click.Path(path_type=Path), help="Also write the quantized Hugging Face checkpoint here."
)
def build(cache: Path, export: Path | None, **knobs: Any) -> None:
    """Build an engine from MODEL, a checkpoint's folder or a Hub id.

    Stages that are finished stay in the cache: run the same command again after a failure and it goes on from there.
    """
    from ingot.builder.build import build_engine
    from ingot.builder.progress import Reporter

    build_engine(Recipe(**knobs), cache=cache, export=export, reporter=Reporter(Console()))


@click.command()
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def inspect(engine: Path, as_json: bool) -> None:
    """Show what ENGINE is: recipe, limits, memory, quality, files and versions."""
    from ingot.builder.tables import inspect_tables

    manifest = read_manifest(engine)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(manifest), indent=2).decode())
        return
    console = Console()
    for table in inspect_tables(manifest):
        console.print(table)


@click.command()
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--model", help="The original checkpoint. Default: where the engine's recipe found it.")
@click.option("--files-only", is_flag=True, help="Check the digests alone.")
def verify(engine: Path, model: str | None, files_only: bool) -> None:
    """Check every file of ENGINE against its manifest, then measure its quality again.

    Exits 1 where a file differs or a figure is past the recipe's bound.
    """
    from ingot.builder.progress import Reporter
    from ingot.builder.reverify import verify_engine
    from ingot.builder.tables import quality_table

    console = Console()
    manifest = read_manifest(engine)
    check_files(engine, manifest)
    console.print(f"{len(manifest.files)} files are as the manifest lists them.", highlight=False)
    if files_only:
        return
    quality = verify_engine(engine, manifest, model=model, reporter=Reporter(console))
    console.print(quality_table(quality))
    if not quality["within_bounds"] and not manifest.recipe["allow_quality_loss"]:
        raise QualityError(
            f"{engine} is past its quality bound: {'; '.join(quality['breaches'])}.",
            mend=f"Build it again: {manifest.rebuild}",
        )
