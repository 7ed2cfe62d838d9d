"""The last stage: everything an engine is, put into its folder at once, digests and manifest last.

Knows how a folder appears whole or not at all; refuses to know where the files came from.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ingot.builder.checkpoint import Checkpoint
from ingot.errors import EngineError, RecipeError
from ingot.manifest import FILE_NAME, Manifest, record_files


def check_out(out: Path) -> None:
    """Raises RecipeError where building to `out` would write over something that is not an engine."""
    if not out.exists():
        return
    if not out.is_dir():
        raise RecipeError(f"{out} is a file.", mend="Give a folder with -o.")
    if any(out.iterdir()) and not is_engine(out):
        raise RecipeError(
            f"{out} holds files and is not an engine; a build would delete them.", mend="Give another -o DIR."
        )


def is_engine(folder: Path) -> bool:
    """True for an engine of any format version, sound or not."""
    try:
        fields = msgspec.json.decode((folder / FILE_NAME).read_bytes())
    except (OSError, msgspec.DecodeError):
        return False
    return isinstance(fields, dict) and {"format_version", "target", "files"} <= fields.keys()


def seal(out: Path, manifest: Manifest, *, files: Iterable[Path], weights: Iterable[Path], compiled: Path) -> Manifest:
    """Fills `out` and returns the manifest with every file's record. An engine that was there is replaced in the end.

    `files` go to the top, `weights` are moved into weights/, everything under `compiled` keeps its place.
    """
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.parent / f".{out.name}.part-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    try:
        (part / "weights").mkdir(parents=True)
        for path in files:
            shutil.copyfile(path, part / path.name)
        for path in weights:
            shutil.move(path, part / "weights" / path.name)
        shutil.copytree(
            compiled, part, dirs_exist_ok=True, ignore=shutil.ignore_patterns("stage.json", "compiled.json")
        )
        manifest = msgspec.structs.replace(manifest, files=record_files(part))
        manifest.write(part)
        replace_folder(part, out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return manifest


def replace_folder(new: Path, old: Path) -> None:
    """`new` takes the place of `old`. Cut short between its two renames, it leaves `old` beside itself, complete."""
    if not old.exists():
        new.rename(old)
        return
    aside = old.parent / f".{old.name}.old-{os.getpid()}"
    old.rename(aside)
    try:
        new.rename(old)
    except OSError as error:
        aside.rename(old)
        raise EngineError(f"{old} could not be replaced: {error}.", mend="Build to another folder.") from error
    shutil.rmtree(aside)


def export_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Copies a quantized Hugging Face checkpoint out of the cache. Raises RecipeError where the folder is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecipeError(f"--export {folder} is not an empty folder.", mend="Give a new one.")
    shutil.copytree(checkpoint.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("stage.json"))
