"""The batch itself: so many requests at once, each answered, refused, or left for the next run."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

from ingot.client.batch.lines import Task, answer_line
from ingot.client.batch.senders import Sender
from ingot.errors import IngotError

BUSY = (429, 502, 503, 504)  # worth another try
NO_ENTRY = (401, 403)  # no other line would fare better


@dataclass(slots=True)
class Tally:
    answered: int = 0
    refused: int = 0
    left: int = 0  # nobody answered: another run asks them again


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchOptions:
    concurrency: int = 64
    tries: int = 8
    first_wait: float = 0.5  # seconds; doubled after each try
    model: str | None = None  # in place of each body's own


async def run_batch(
    tasks: Iterator[Task], sender: Sender, answers: BinaryIO, options: BatchOptions, on_line: Callable[[], None]
) -> Tally:
    """Sends all tasks and writes each answer as it comes. Raises IngotError where the server lets nobody in."""
    tally = Tally()

    async def work() -> None:
        for task in tasks:  # one iterator for all workers
            request_id = f"req_{uuid.uuid4().hex}"
            said = await ask(task, sender, request_id, options)
            if said is None:
                tally.left += 1
            else:
                status, body = said
                answers.write(answer_line(task, request_id, status, body))
                answers.flush()
                tally.answered += status == 200
                tally.refused += status != 200
            on_line()

    workers = [asyncio.create_task(work()) for _ in range(options.concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return tally


async def ask(task: Task, sender: Sender, request_id: str, options: BatchOptions) -> tuple[int, bytes] | None:
    """None where it stays busy or away through all tries."""
    fields = task.body if options.model is None else task.body | {"model": options.model}
    body = msgspec.json.encode(fields)
    for attempt in range(options.tries):
        if attempt:
            await asyncio.sleep(options.first_wait * 2 ** (attempt - 1))
        try:
            status, said = await sender.post(task.url, body, request_id)
        except OSError:
            continue
        if status in NO_ENTRY:
            raise IngotError(f"The server answered {status}.", mend="Give its key with --api-key.")
        if status not in BUSY:
            return status, said
    return None
