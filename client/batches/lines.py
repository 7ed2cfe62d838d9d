"""A batch's file on the server: all that is wrong with it, line by line, and which answers it has. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from ingot.client.batch.lines import Task, parse_task, read_done, read_lines
from ingot.client.batches.records import LineError
from ingot.errors import RequestError

MAX_REQUESTS = 50_000  # OpenAI's
MAX_ERRORS = 100  # told of one file
MAX_CUSTOM_ID = 512


def check_input(path: Path, endpoint: str) -> tuple[int, list[LineError]]:
    """How many requests the file holds, and what is wrong with it; nothing is run where anything is."""
    seen: set[str] = set()
    errors: list[LineError] = []
    count = 0
    for number, line in read_lines(path):
        count += 1
        try:
            task = parse_task(line)
        except RequestError as error:
            errors.append(LineError(code="invalid_line", message=str(error), line=number, param=error.param))
        else:
            if (error_found := check_task_line(task, endpoint, seen)) is not None:
                code, message, param = error_found
                errors.append(LineError(code=code, message=message, line=number, param=param))
            seen.add(task.custom_id)
        if len(errors) >= MAX_ERRORS:
            break
        if count > MAX_REQUESTS:
            errors.append(LineError(code="too_many_requests", message=f"A batch has at most {MAX_REQUESTS} requests."))
            break
    if not count:
        errors.append(LineError(code="empty_file", message="The file holds no request."))
    return count, errors


def check_task_line(task: Task, endpoint: str, seen: set[str]) -> tuple[str, str, str] | None:
    """Code, message and field of what is wrong with a request that is one."""
    if task.url != endpoint:
        return "mismatched_url", f"The url is {task.url}; the batch's endpoint is {endpoint}.", "url"
    if not 0 < len(task.custom_id) <= MAX_CUSTOM_ID:
        return "invalid_custom_id", f"custom_id must have 1 to {MAX_CUSTOM_ID} characters.", "custom_id"
    if task.custom_id in seen:
        return "duplicate_custom_id", f"The custom_id {task.custom_id[:80]!r} is given twice.", "custom_id"
    return None


def answered(path: Path) -> set[str]:
    """The ids that a file of answers has. A last line that was cut off is removed; the file is made where there is none."""
    with path.open("ab+") as file:
        return read_done(path, file)


def unanswered(path: Path, done: set[str]) -> Iterator[Task]:
    for _, line in read_lines(path):
        task = parse_task(line)
        if task.custom_id not in done:
            yield task


def error_line(task: Task, code: str, message: str) -> bytes:
    """The answer of a request that never got one."""
    fields: dict[str, Any] = {
        "id": f"batch_req_{task.custom_id}",
        "custom_id": task.custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }
    return msgspec.json.encode(fields) + b"\n"
