"""Files and batches of one folder, as the routes use them: each key sees its own. Started and stopped with the server."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from starlette.exceptions import HTTPException

from ingot.client.batch.senders import Sender
from ingot.client.batches.disk import lock_folder
from ingot.client.batches.files import FileStore, StoredFile
from ingot.client.batches.records import Batch, BatchStore
from ingot.client.batches.runner import Runner
from ingot.errors import QueueFullError, RequestError, UnavailableError

MAX_UNFINISHED = 64  # batches of one owner
CONCURRENCY = 8


class BatchService:
    def __init__(self, folder: Path, *, concurrency: int = CONCURRENCY) -> None:
        """Takes the folder. Raises DeploymentError where it cannot be had. At most `concurrency` requests run at once."""
        self._lock: BinaryIO = lock_folder(folder)
        self.files = FileStore(folder / "files")
        self.batches = BatchStore(folder / "batches")
        self._concurrency = concurrency
        self._runner: Runner | None = None

    def start(self, sender: Sender) -> None:
        """Goes on with every batch that a stop or a crash has left. Call it on the event loop."""
        self._runner = Runner(self.batches, self.files, sender, concurrency=self._concurrency)
        for batch in self.batches.unfinished():
            self._runner.start(batch)

    async def stop(self) -> None:
        """Unfinished batches stay on disk as they are. The folder is free again."""
        if self._runner is not None:
            await self._runner.stop()
            self._runner = None
        self._lock.close()

    def file(self, file_id: str, owner: str) -> StoredFile:
        """Raises HTTPException 404, for another's file too."""
        found = self.files.get(file_id, owner)
        if found is None:
            raise HTTPException(404, f"There is no file {file_id[:80]!r}.")
        return found

    def batch(self, batch_id: str, owner: str) -> Batch:
        """Raises HTTPException 404, for another's batch too."""
        found = self.batches.get(batch_id, owner)
        if found is None:
            raise HTTPException(404, f"There is no batch {batch_id[:80]!r}.")
        return found

    def create(
        self,
        *,
        owner: str,
        endpoint: str,
        input_file_id: str,
        metadata: dict[str, str] | None,
        output_seconds: int | None,
    ) -> Batch:
        """Raises QueueFullError where too many are unfinished, RequestError where the file is no input."""
        source = self.files.get(input_file_id, owner)
        if source is None or source.purpose != "batch":
            raise RequestError(
                f"There is no file {input_file_id[:80]!r} of purpose batch.",
                mend="Upload it first: POST /v1/files.",
                param="input_file_id",
            )
        if sum(one.owner == owner for one in self.batches.unfinished()) >= MAX_UNFINISHED:
            raise QueueFullError(f"{MAX_UNFINISHED} batches are unfinished.", mend="Wait for one, or cancel it.")
        runner = self._ready_runner()
        batch = self.batches.add(
            owner=owner,
            endpoint=endpoint,
            input_file_id=source.id,
            metadata=metadata,
            output_seconds=output_seconds,
            source=self.files.content(source.id),
        )
        runner.start(batch)
        return batch

    async def cancel(self, batch: Batch) -> None:
        """Raises RequestError where there is nothing to cancel any more."""
        if batch.status not in ("validating", "in_progress"):
            raise RequestError(f"The batch is {batch.status}.", mend="Only one that has not ended can be cancelled.")
        await self._ready_runner().cancel(batch)

    def _ready_runner(self) -> Runner:
        if self._runner is None:
            raise UnavailableError("The server runs no batches now.", mend="Try again shortly.")
        return self._runner


def owner_of(caller: bytes) -> str:
    """What stands on disk for a key: nothing that the key, or its digest at the gate, could be told from."""
    return hashlib.sha256(b"ingot batch owner\0" + caller).hexdigest()[:32]
