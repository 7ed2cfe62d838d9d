"""What is known of a batch, on disk and in OpenAI's words, and which state follows which. Runs nothing."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec

from ingot.client.batches.disk import new_id, write_record

WINDOW_SECONDS = 24 * 3600
KEPT_SECONDS = 30 * 24 * 3600  # of a batch that is over
OVER = ("completed", "failed", "expired", "cancelled")
FOLLOWERS = {
    "validating": ("in_progress", "failed", "cancelling"),
    "in_progress": ("finalizing", "cancelling", "failed"),
    "finalizing": ("completed", "expired", "failed"),
    "cancelling": ("cancelled", "failed"),
}

logger = logging.getLogger(__name__)


class LineError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a file is no batch."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Batch(msgspec.Struct, kw_only=True):
    """One batch. Its folder holds this record and, while it runs, input.jsonl, output.jsonl and errors.jsonl."""

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    created_at: int
    expires_at: int
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None
    output_seconds: int | None = None  # until the files of answers expire
    status: str = "validating"
    times: dict[str, int] = {}  # status -> when it began
    expired: bool = False  # it was cut off by its window
    errors: list[LineError] = []
    output_file_id: str | None = None
    error_file_id: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    def body(self) -> dict[str, Any]:
        """OpenAI's batch object."""
        errors = {"object": "list", "data": [msgspec.to_builtins(one) for one in self.errors]}
        shown = {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": errors if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status,
            "output_file_id": self.output_file_id if self.is_over else None,
            "error_file_id": self.error_file_id if self.is_over else None,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "metadata": self.metadata,
        }
        named = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        return shown | {f"{name}_at": self.times.get(name) for name in named}


class BatchStore:
    """The batches of one folder, which one process has."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._batches: dict[str, Batch] = {}
        for path in sorted(folder.iterdir()):
            try:
                batch = msgspec.json.decode((path / "batch.json").read_bytes(), type=Batch)
            except (OSError, msgspec.MsgspecError) as error:
                logger.warning("%s is no batch: %s", path, error)
                continue
            if batch.is_over and batch.created_at < time.time() - KEPT_SECONDS:
                shutil.rmtree(path)
            elif batch.id == path.name:
                self._batches[batch.id] = batch

    def get(self, batch_id: str, owner: str) -> Batch | None:
        """None for one that is not there or is another's."""
        found = self._batches.get(batch_id)
        return found if found is not None and found.owner == owner else None

    def of(self, owner: str) -> list[Batch]:
        """The newest first."""
        own = [one for one in self._batches.values() if one.owner == owner]
        return sorted(own, key=lambda one: one.id, reverse=True)

    def unfinished(self) -> list[Batch]:
        """The oldest first."""
        open_ = [one for one in self._batches.values() if not one.is_over]
        return sorted(open_, key=lambda one: one.id)

    def folder(self, batch: Batch) -> Path:
        return self._folder / batch.id

    def input(self, batch: Batch) -> Path:
        """The batch's own link to its input: whoever deletes that file does not change the batch."""
        return self.folder(batch) / "input.jsonl"

    def add(
        self,
        *,
        owner: str,
        endpoint: str,
        input_file_id: str,
        metadata: dict[str, str] | None,
        output_seconds: int | None,
        source: Path,
    ) -> Batch:
        """`source` holds the requests, on the same disk."""
        now = int(time.time())
        batch = Batch(
            id=new_id("batch_"),
            owner=owner,
            endpoint=endpoint,
            input_file_id=input_file_id,
            created_at=now,
            expires_at=now + WINDOW_SECONDS,
            metadata=metadata,
            output_seconds=output_seconds,
        )
        self.folder(batch).mkdir()
        os.link(source, self.input(batch))
        self.save(batch)
        self._batches[batch.id] = batch
        return batch

    def enter(self, batch: Batch, status: str) -> None:
        """The next state, on disk before anything is done in it. Raises ValueError for one that cannot follow."""
        if status not in FOLLOWERS.get(batch.status, ()):
            raise ValueError(f"a batch that is {batch.status} cannot become {status}")
        batch.status = status
        batch.times[status] = int(time.time())
        self.save(batch)

    def save(self, batch: Batch) -> None:
        write_record(self.folder(batch) / "batch.json", batch)
