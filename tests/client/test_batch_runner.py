"""Batches under the runner alone: windows that end, crashes between two steps, records that are old or broken."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from tests.client.batch_server import COMPLETIONS, jsonl, task

from ingot.client.batches.files import FileStore
from ingot.client.batches.records import Batch, BatchStore
from ingot.client.batches.runner import Runner


class Silent:
    """A sender that never answers."""

    async def post(self, path: str, body: bytes, request_id: str) -> tuple[int, bytes]:
        await asyncio.Event().wait()
        raise AssertionError


def stored(folder: Path, lines: list[Any]) -> tuple[BatchStore, FileStore, Batch]:
    folder.mkdir()
    (folder / "in.jsonl").write_bytes(jsonl(lines))
    batches = BatchStore(folder / "batches")
    batch = batches.add(
        owner="me",
        endpoint=COMPLETIONS,
        input_file_id="file-x",
        metadata=None,
        output_seconds=None,
        source=folder / "in.jsonl",
    )
    return batches, FileStore(folder / "files"), batch


async def until_over(batch: Batch) -> None:
    async with asyncio.timeout(30):
        while not batch.is_over:
            await asyncio.sleep(0.01)


async def test_a_window_that_ends_leaves_an_error_a_line(tmp_path: Path) -> None:
    batches, files, batch = stored(tmp_path / "dir", [task("a"), task("b")])
    batch.expires_at = int(time.time()) + 1
    runner = Runner(batches, files, Silent(), concurrency=1)
    runner.start(batch)
    await until_over(batch)
    assert (batch.status, batch.failed, batch.output_file_id) == ("expired", 2, None)
    assert batch.error_file_id is not None
    errors = [json.loads(line) for line in files.content(batch.error_file_id).read_bytes().splitlines()]
    assert [(one["custom_id"], one["error"]["code"]) for one in errors] == [
        ("a", "batch_expired"),
        ("b", "batch_expired"),
    ]


@pytest.mark.parametrize("kept", ["nothing", "the output", "both"])
async def test_a_crash_while_finalizing_is_finished(tmp_path: Path, kept: str) -> None:
    batches, files, batch = stored(tmp_path / "dir", [task("a"), task("b")])
    for name, custom_id in (("output.jsonl", "a"), ("errors.jsonl", "b")):
        (batches.folder(batch) / name).write_bytes(jsonl([{"custom_id": custom_id}]))
    batches.enter(batch, "in_progress")
    runner = Runner(batches, files, Silent(), concurrency=1)
    runner._name_outputs(batch)
    batches.enter(batch, "finalizing")
    if kept == "both":
        runner._keep_outputs(batch)
    elif kept == "the output":
        path = batches.folder(batch) / "output.jsonl"
        files.adopt(path, batch.output_file_id or "", owner="me", filename="f", purpose="batch_output", seconds=None)
    again, kept_files = BatchStore(tmp_path / "dir" / "batches"), FileStore(tmp_path / "dir" / "files")
    (found,) = again.unfinished()
    Runner(again, kept_files, Silent(), concurrency=1).start(found)
    await until_over(found)
    assert found.status == "completed"
    assert {one.id for one in kept_files.of("me")} == {batch.output_file_id, batch.error_file_id}


async def test_a_broken_batch_fails_alone(tmp_path: Path) -> None:
    batches, files, batch = stored(tmp_path / "dir", [task("a")])
    batches.enter(batch, "in_progress")
    batches.input(batch).unlink()
    Runner(batches, files, Silent(), concurrency=1).start(batch)
    await until_over(batch)
    assert (batch.status, batch.errors[0].code) == ("failed", "internal_error")


def test_old_and_broken_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches, _, batch = stored(tmp_path / "dir", [task("a")])
    (tmp_path / "dir" / "batches" / "batch_broken").mkdir()
    assert [one.id for one in BatchStore(tmp_path / "dir" / "batches").of("me")] == [batch.id]
    with pytest.raises(ValueError, match="cannot become"):
        batches.enter(batch, "completed")
    batches.enter(batch, "failed")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 31 * 24 * 3600)
    assert BatchStore(tmp_path / "dir" / "batches").of("me") == []
