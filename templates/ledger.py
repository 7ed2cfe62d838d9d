"""Which files of a folder are rendered ones, by digest, so that rendering again never eats a person's own work."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from ingot.errors import DeploymentError

FILE_NAME = ".rendered.json"
FORMAT_VERSION = 1


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What a rendering did, as paths below the folder."""

    written: list[str]
    unchanged: list[str]
    removed: list[str]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format_version: int
    files: dict[str, str]  # path below the folder -> sha256 of what was rendered there


class Ledger:
    """The record of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rendered = self._read()

    def write(self, files: dict[str, str], *, prune: bool = False) -> Changes:
        """Writes `files` (path below the folder -> text); with `prune`, removes rendered ones that are not among them.

        All or nothing where a person's file is in the way: DeploymentError comes before the first write.
        """
        stale = sorted(set(self._rendered) - set(files)) if prune else []
        for name in [*files, *stale]:
            self._check(name, files.get(name))
        written = [name for name, text in files.items() if self._found(name) != digest(text.encode())]
        for name in written:
            self._replace(self._folder / name, files[name])
        for name in stale:
            self._remove(self._folder / name)
        rendered = {name: found for name, found in self._rendered.items() if name not in stale}
        rendered |= {name: digest(text.encode()) for name, text in files.items()}
        self._save(rendered)
        return Changes(written=written, unchanged=[name for name in files if name not in written], removed=stale)

    def _check(self, name: str, text: str | None) -> None:
        """Refuses a file that stands there and is neither what was rendered last nor what would be rendered now."""
        path = self._folder / name
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise DeploymentError(f"{path} leads out of {self._folder}.", mend="Remove the link, then render again.")
        found = self._found(name)
        if found in (None, self._rendered.get(name)) or (text is not None and found == digest(text.encode())):
            return
        why = "was changed since ingot rendered it" if name in self._rendered else "was not rendered by ingot"
        raise DeploymentError(
            f"{path} {why}.", mend="Move it away, or render into another folder; nothing was written."
        )

    def _found(self, name: str) -> str | None:
        path = self._folder / name
        return digest(path.read_bytes()) if path.is_file() else None

    def _replace(self, path: Path, text: str) -> None:
        """A server that polls the folder sees the old file or the new one, never half of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(text)
        draft.replace(path)

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == self._folder or not parent.is_dir() or any(parent.iterdir()):
                return
            parent.rmdir()

    def _read(self) -> dict[str, str]:
        path = self._folder / FILE_NAME
        if not path.is_file():
            return {}
        try:
            record = msgspec.json.decode(path.read_bytes(), type=Record)
        except msgspec.MsgspecError as error:
            raise DeploymentError(
                f"{path} is damaged ({error}).", mend="Render into an empty folder, then move what you need."
            ) from error
        return record.files

    def _save(self, files: dict[str, str]) -> None:
        if files != self._rendered:
            record = Record(format_version=FORMAT_VERSION, files=dict(sorted(files.items())))
            self._replace(self._folder / FILE_NAME, msgspec.json.format(msgspec.json.encode(record)).decode() + "\n")
            self._rendered = files


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
