"""Uploaded and answered files: each a folder of its own, seen only by the key that owns it. Knows no HTTP and no batch.

A file's folder appears whole by a rename. Ids are made here and looked up in memory, so no name from outside reaches a path.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from ingot.client.batches.disk import new_id, sync, write_record
from ingot.errors import RequestError

MAX_FILES = 10_000  # of one owner
MAX_BYTES = 64 << 30  # of all files together
MAX_NAME = 256
CHUNK = 1 << 20

logger = logging.getLogger(__name__)


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    owner: str
    bytes: int
    created_at: int
    filename: str
    purpose: str  # batch | batch_output
    expires_at: int | None = None

    def body(self) -> dict[str, Any]:
        """OpenAI's file object."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__ if name != "owner"}
        return {"object": "file", "status": "processed", "status_details": None, **fields}


class FileStore:
    """One process has the folder. Blocking; methods may be called by any thread, one at a time for one file."""

    def __init__(self, folder: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
        """Reads what is there; what a crash left half made is removed, what is damaged is left alone and not served."""
        self._folder = folder
        self._max_files, self._max_bytes = max_files, max_bytes
        folder.mkdir(exist_ok=True)
        self._files: dict[str, StoredFile] = {}
        for path in folder.iterdir():
            if path.name.startswith(".part-"):
                shutil.rmtree(path)
                continue
            try:
                record = msgspec.json.decode((path / "file.json").read_bytes(), type=StoredFile)
                if record.id == path.name and (path / "content").stat().st_size == record.bytes:
                    self._files[record.id] = record
                    continue
            except (OSError, msgspec.MsgspecError) as error:
                logger.warning("%s is no stored file: %s", path, error)

    def get(self, file_id: str, owner: str) -> StoredFile | None:
        """None for a file that is not there, has expired or is another's."""
        found = self._files.get(file_id)
        if found is None or found.owner != owner:
            return None
        if found.expires_at is not None and found.expires_at <= time.time():
            self.delete(file_id)
            return None
        return found

    def of(self, owner: str) -> list[StoredFile]:
        """The newest first."""
        own = [one for one in list(self._files.values()) if one.owner == owner and self.get(one.id, owner)]
        return sorted(own, key=lambda one: one.id, reverse=True)

    def content(self, file_id: str) -> Path:
        """Where the bytes of a file that get() gave lie."""
        return self._folder / self._files[file_id].id / "content"

    def add(self, source: BinaryIO, *, owner: str, filename: str, purpose: str, seconds: int | None) -> StoredFile:
        """Copies the bytes. `seconds`: until it expires. Raises RequestError where there is no room for it."""
        self._check_room(owner)
        room = self._max_bytes - sum(one.bytes for one in list(self._files.values()))

        def fill(path: Path) -> None:
            size = 0
            with path.open("wb") as file:
                while piece := source.read(CHUNK):
                    size += len(piece)
                    if size > room:
                        raise RequestError("The server's room for files is used up.", mend="Delete some.", param="file")
                    file.write(piece)

        return self._make(new_id("file-"), fill, owner, filename, purpose, seconds)

    def adopt(
        self, source: Path, file_id: str, *, owner: str, filename: str, purpose: str, seconds: int | None
    ) -> StoredFile:
        """Makes a file of one that lies on the same disk; `source` is gone afterwards. Done twice, it is done once."""
        found = self._files.get(file_id)
        if found is None:
            found = self._make(file_id, lambda path: os.link(source, path), owner, filename, purpose, seconds)
        source.unlink(missing_ok=True)
        return found

    def delete(self, file_id: str) -> None:
        """A file that is gone already is no error."""
        if self._files.pop(file_id, None) is not None:
            shutil.rmtree(self._folder / file_id, ignore_errors=True)

    def _make(
        self, file_id: str, fill: Callable[[Path], None], owner: str, filename: str, purpose: str, seconds: int | None
    ) -> StoredFile:
        part = self._folder / f".part-{file_id}"
        part.mkdir()
        try:
            fill(part / "content")
            sync(part / "content")
            now = int(time.time())
            record = StoredFile(
                id=file_id,
                owner=owner,
                bytes=(part / "content").stat().st_size,
                created_at=now,
                filename=filename[:MAX_NAME],
                purpose=purpose,
                expires_at=None if seconds is None else now + seconds,
            )
            write_record(part / "file.json", record)
            part.rename(self._folder / file_id)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        self._files[file_id] = record
        return record

    def _check_room(self, owner: str) -> None:
        if len(self.of(owner)) >= self._max_files:
            raise RequestError(f"{self._max_files} files are kept.", mend="Delete some.", param="file")
