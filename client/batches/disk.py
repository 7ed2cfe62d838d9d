"""JSON records on disk that are whole or not there, and the lock that keeps a second server out. Knows no record."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from pathlib import Path
from typing import BinaryIO

import msgspec

from ingot.errors import DeploymentError

LOCK = "lock"


def new_id(prefix: str) -> str:
    """Not to be guessed, and in the order of their making."""
    return f"{prefix}{time.time_ns():016x}{secrets.token_hex(8)}"


def write_record(path: Path, record: msgspec.Struct) -> None:
    """Replaces the file at once: a crash leaves the old one or the new one."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def sync(path: Path) -> None:
    """What was written to the file survives the machine."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def lock_folder(folder: Path) -> BinaryIO:
    """Makes the folder where there is none, for this user alone. Raises DeploymentError where another server has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (folder / LOCK).open("ab")
    except OSError as error:
        raise DeploymentError(
            f"--batch-dir {folder} cannot be used: {error.strerror}.", mend="Give a folder that can be written to."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise DeploymentError(
            f"Another server works in --batch-dir {folder}.", mend="Stop it, or give each its own folder."
        ) from error
    return file
