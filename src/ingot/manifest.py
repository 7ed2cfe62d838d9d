"""manifest.json, the engine's lockfile: what was built, from what, for what, how good it is and how to build it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from ingot.errors import EngineError

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"
PROGRAM_FOLDERS = ("weights", "kernels", "plan")  # everything in them is loaded


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an engine was built to hold at once."""

    max_model_len: int  # prompt + output tokens of one sequence
    max_num_seqs: int  # sequences running at once
    max_num_batched_tokens: int  # tokens of one step
    page_size: int  # KV slots of one page
    num_pages: int | None = None  # fixed at build on the cpu target; measured at load on a GPU


class Embedding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an engine makes one vector of a text, where a request does not say otherwise."""

    size: int  # floats of a vector
    pooling: str  # mean | last | cls: of which tokens' hidden states
    normalize: bool  # to length 1


class FileRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every field is written by the builder and read by everyone else."""

    format_version: int
    name: str  # the served model name
    target: str  # cpu | cuda | tensorrt | tensorrt-rtx
    sm: list[int]  # compute capabilities compiled for, e.g. [90]; empty on cpu
    source: dict[str, Any]  # where the checkpoint came from: path or hub id, revision, digest
    recipe: dict[str, Any]  # every knob of the build
    dtype: str  # of activations
    kv_dtype: str
    limits: Limits
    memory: dict[str, int]  # the memory plan, bytes by purpose
    quality: dict[str, Any] | None  # verify's figures; None when verification was skipped
    versions: dict[str, str]  # library -> version used to build
    files: dict[str, FileRecord]  # every file of the engine but this one
    rebuild: str  # the command that makes this engine again
    built_at: str
    tasks: tuple[str, ...] = ("generate",)  # what it serves: generate, embed
    embedding: Embedding | None = None  # of engines that serve embed

    def write(self, engine: Path) -> None:
        (engine / FILE_NAME).write_text(json.dumps(msgspec.to_builtins(self), indent=2) + "\n")


def read_manifest(engine: Path) -> Manifest:
    """Parses the manifest alone. Raises EngineError where there is none or it is of another format."""
    path = engine / FILE_NAME
    if not path.is_file():
        raise EngineError(
            f"{engine} has no {FILE_NAME}, so it is not an engine.", mend="Build one: ingot build MODEL -o DIR."
        )
    text = path.read_bytes()
    try:
        found = json.loads(text).get("format_version")
    except (ValueError, AttributeError) as error:
        raise EngineError(f"{path} is not valid JSON ({error}).", mend="Build the engine again.") from error
    if found != FORMAT_VERSION:
        raise EngineError(
            f"{path} has format version {found}; this ingot reads version {FORMAT_VERSION}.",
            mend="Build the engine again with this ingot, or install the ingot that built it.",
        )
    try:
        return msgspec.json.decode(text, type=Manifest)
    except msgspec.ValidationError as error:
        raise EngineError(
            f"{path} does not follow the manifest format: {error}.", mend="Build the engine again."
        ) from error


def check_files(engine: Path, manifest: Manifest) -> None:
    """Compares every file with its record, before anything is read from them. Raises EngineError at the first difference.

    A file that programs read and the manifest does not list (a renamed one, a shard of another engine) is one too.
    """
    mend = f"Build it again: {manifest.rebuild}"
    for name, record in manifest.files.items():
        path = engine / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise EngineError(f"The manifest of {engine} lists {name!r}, outside the engine.", mend=mend)
        if not path.is_file():
            raise EngineError(f"{engine} lacks {name}, which its manifest lists.", mend=mend)
        size = path.stat().st_size
        if size != record.size:
            raise EngineError(f"{path} has {size} bytes; the manifest says {record.size}.", mend=mend)
    for folder in PROGRAM_FOLDERS:
        for path in sorted((engine / folder).rglob("*")):
            if path.is_file() and path.relative_to(engine).as_posix() not in manifest.files:
                raise EngineError(
                    f"{path} is not in the manifest.", mend=f"Remove it, or build again: {manifest.rebuild}"
                )
    with ThreadPoolExecutor() as pool:
        digests = pool.map(file_digest, (engine / name for name in manifest.files))
        for (name, record), digest in zip(manifest.files.items(), digests, strict=True):
            if digest != record.sha256:
                raise EngineError(
                    f"{engine / name} does not have the digest the manifest lists: its content changed.", mend=mend
                )


def check_host(
    engine: Path, manifest: Manifest, *, target: str, sm: int | None = None, versions: Mapping[str, str] | None = None
) -> None:
    """Compares what the engine was compiled for with where it is to run. Raises EngineError at the first difference.

    `target` is the program's, `sm` the GPU's compute capability (90 for 9.0), `versions` those libraries of this machine
    that compiled code depends on: an engine built with others is refused.
    """
    if manifest.target != target:
        raise EngineError(
            f"{engine} was compiled for target {manifest.target}; this is to run on {target}.",
            mend=f"Serve it on a {manifest.target} machine, or build it for this one: ingot build --target {target}.",
        )
    if manifest.sm and sm not in manifest.sm:
        have = "no GPU" if sm is None else f"a GPU of SM {sm / 10}"
        raise EngineError(
            f"{engine} was compiled for SM {', '.join(str(known / 10) for known in manifest.sm)}; this machine has {have}.",
            mend=f"Build it again on this machine: {manifest.rebuild}",
        )
    for name, found in (versions or {}).items():
        built = manifest.versions.get(name)
        if built != found:
            raise EngineError(
                f"{engine} was compiled with {name} {built}; this machine has {found}.",
                mend=f"Install {name}=={built}, or build again: {manifest.rebuild}",
            )


def record_files(engine: Path) -> dict[str, FileRecord]:
    """Size and digest of every file under an engine folder, the manifest left out."""
    paths = sorted(path for path in engine.rglob("*") if path.is_file() and path.name != FILE_NAME)
    return {
        path.relative_to(engine).as_posix(): FileRecord(size=path.stat().st_size, sha256=file_digest(path))
        for path in paths
    }


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
