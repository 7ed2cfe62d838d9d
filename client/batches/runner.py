"""Batches under way: each a task, all sharing a few places, from validating to the files of answers. Knows no HTTP.

Every answer is a line on disk before it is counted, and every state is on disk before it is acted on: a server that is
killed goes on where it stopped, and asks again only what has no answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO

import msgspec

from ingot.client.batch.lines import Task, answer_line
from ingot.client.batch.run import BUSY
from ingot.client.batch.senders import Sender
from ingot.client.batches.disk import new_id
from ingot.client.batches.files import FileStore
from ingot.client.batches.lines import answered, check_input, error_line, unanswered
from ingot.client.batches.records import Batch, BatchStore, LineError
from ingot.errors import ExecutorDiedError

FIRST_WAIT, LONGEST_WAIT = 0.25, 30.0  # seconds before a request is sent again that found no room
MAX_DEATHS = 3  # of the executor under one request: the request may be what kills it

logger = logging.getLogger(__name__)


class Runner:
    def __init__(self, batches: BatchStore, files: FileStore, sender: Sender, *, concurrency: int) -> None:
        """At most `concurrency` requests of all batches together are under way."""
        self._batches, self._files, self._sender = batches, files, sender
        self._concurrency = concurrency
        self._places = asyncio.Semaphore(concurrency)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, batch: Batch) -> None:
        task = asyncio.create_task(self._live(batch), name=batch.id)
        self._tasks[batch.id] = task
        task.add_done_callback(self._forget)

    async def cancel(self, batch: Batch) -> None:
        """Ends what is under way; the answers that are there are kept."""
        self._batches.enter(batch, "cancelling")
        running = self._tasks.get(batch.id)
        if running is not None:
            running.cancel()
            await asyncio.wait([running])
        self.start(batch)

    async def stop(self) -> None:
        """Leaves every batch as it is, to go on with when the server is back."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, task: asyncio.Task[None]) -> None:
        if self._tasks.get(task.get_name()) is task:
            del self._tasks[task.get_name()]

    async def _live(self, batch: Batch) -> None:
        try:
            if batch.status == "validating":
                await self._validate(batch)
            if batch.status == "in_progress":
                await self._answer_all(batch)
                self._name_outputs(batch)
                self._batches.enter(batch, "finalizing")
            if batch.status in ("finalizing", "cancelling"):
                self._name_outputs(batch)
                await asyncio.to_thread(self._keep_outputs, batch)
                ended = "expired" if batch.expired else "completed"
                self._batches.enter(batch, "cancelled" if batch.status == "cancelling" else ended)
        except Exception:
            logger.exception("batch %s failed", batch.id)
            batch.errors.append(LineError(code="internal_error", message="The server failed; its log says why."))
            self._batches.enter(batch, "failed")

    async def _validate(self, batch: Batch) -> None:
        batch.total, batch.errors = await asyncio.to_thread(check_input, self._batches.input(batch), batch.endpoint)
        self._batches.enter(batch, "failed" if batch.errors else "in_progress")

    async def _answer_all(self, batch: Batch) -> None:
        """Returns when every request has an answer, of success, of failure, or of a window that was too short."""
        folder = self._batches.folder(batch)
        done = await asyncio.to_thread(self._read_answers, batch)
        tasks = unanswered(self._batches.input(batch), done)
        with ExitStack() as stack:
            good = stack.enter_context((folder / "output.jsonl").open("ab"))
            bad = stack.enter_context((folder / "errors.jsonl").open("ab"))
            try:
                async with asyncio.timeout(batch.expires_at - time.time()):
                    await self._work(batch, tasks, good, bad)
            except TimeoutError:
                batch.expired = True
        if batch.expired:
            await asyncio.to_thread(self._write_expired, batch)

    async def _work(self, batch: Batch, tasks: Iterator[Task], good: BinaryIO, bad: BinaryIO) -> None:
        async def work() -> None:
            for task in tasks:  # one iterator for all workers
                request_id = f"req_{uuid.uuid4().hex}"
                status, line = await self._ask(task, request_id)
                (good if status == 200 else bad).write(line)
                (good if status == 200 else bad).flush()
                batch.completed += status == 200
                batch.failed += status != 200

        workers = [asyncio.create_task(work()) for _ in range(self._concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _ask(self, task: Task, request_id: str) -> tuple[int, bytes]:
        """Status and line of the answer. Waits for as long as there is no room for the request."""
        body = msgspec.json.encode(task.body)
        wait, deaths = FIRST_WAIT, 0
        while True:
            try:
                async with self._places:
                    status, said = await self._sender.post(task.url, body, request_id)
            except OSError:
                status, said = 503, b""
            if status not in BUSY:
                return status, answer_line(task, request_id, status, said)
            deaths += ExecutorDiedError.code.encode() in said
            if deaths >= MAX_DEATHS:
                return status, answer_line(task, request_id, status, said)
            await asyncio.sleep(wait * random.uniform(0.5, 1.5))  # spread: who died together should not meet again
            wait = min(2 * wait, LONGEST_WAIT)

    def _read_answers(self, batch: Batch) -> set[str]:
        folder = self._batches.folder(batch)
        good, bad = answered(folder / "output.jsonl"), answered(folder / "errors.jsonl")
        batch.completed, batch.failed = len(good), len(bad)
        return good | bad

    def _write_expired(self, batch: Batch) -> None:
        done = self._read_answers(batch)
        with (self._batches.folder(batch) / "errors.jsonl").open("ab") as file:
            for task in unanswered(self._batches.input(batch), done):
                file.write(error_line(task, "batch_expired", "The batch's window ended before this request ran."))
                batch.failed += 1

    def _name_outputs(self, batch: Batch) -> None:
        """Chooses the files' ids before there are files, so that doing it again after a crash finds the same."""
        folder = self._batches.folder(batch)
        for name, field in (("output.jsonl", "output_file_id"), ("errors.jsonl", "error_file_id")):
            path = folder / name
            if getattr(batch, field) is None and path.is_file() and path.stat().st_size:
                setattr(batch, field, new_id("file-"))
        self._batches.save(batch)

    def _keep_outputs(self, batch: Batch) -> None:
        folder = self._batches.folder(batch)
        outputs = ((folder / "output.jsonl", batch.output_file_id), (folder / "errors.jsonl", batch.error_file_id))
        for path, file_id in outputs:
            if file_id is None:
                path.unlink(missing_ok=True)
                continue
            if path.is_file():
                answered(path)  # removes the line that a kill in the middle of a write has left
            self._files.adopt(
                path,
                file_id,
                owner=batch.owner,
                filename=f"{batch.id}_{path.name}",
                purpose="batch_output",
                seconds=batch.output_seconds,
            )
        self._batches.input(batch).unlink(missing_ok=True)
