"""OpenAI's batch file format: one request a line in, one answer a line out. Knows files; refuses to know who answers."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from ingot.errors import RequestError

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
MAX_LINE = 32 << 20  # bytes
BATCH = "See https://platform.openai.com/docs/guides/batch for the format."


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request of a batch file."""

    custom_id: str
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


class Done(msgspec.Struct, frozen=True):
    """What of an answer's line says that it need not be asked again."""

    custom_id: str


decode_task = msgspec.json.Decoder(Task).decode


def read_tasks(path: Path) -> Iterator[Task]:
    """The file's requests in order. Raises RequestError, naming the line, at the first that is none."""
    for number, line in read_lines(path):
        try:
            yield parse_task(line)
        except RequestError as error:
            raise RequestError(f"{path}, line {number}: {error.message}", mend=error.mend) from error


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), 1):
            if line.strip():
                yield number, line


def parse_task(line: bytes) -> Task:
    """Raises RequestError for a line that is no request."""
    try:
        task = decode_task(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RequestError(f"{error}.", mend=BATCH) from error
    if task.url not in URLS:
        raise RequestError(f"the url is {task.url[:80]!r}.", mend=f"Use one of {', '.join(URLS)}.", param="url")
    for name in ("stream", "background"):
        if task.body.get(name):
            raise RequestError(
                "an answer in a file neither streams nor waits.",
                mend="Leave stream and background out.",
                param=f"body.{name}",
            )
    return task


def check_tasks(path: Path) -> set[str]:
    """Reads the whole file before the first request is sent. Returns its ids; raises RequestError at one given twice."""
    found: set[str] = set()
    for task in read_tasks(path):
        if task.custom_id in found:
            raise RequestError(
                f"{path}: the custom_id {task.custom_id[:80]!r} is given twice.", mend="Give each request its own."
            )
        found.add(task.custom_id)
    if not found:
        raise RequestError(f"{path} holds no request.", mend=BATCH)
    return found


@contextmanager
def open_answers(path: Path) -> Iterator[tuple[BinaryIO, set[str]]]:
    """The answers' file, open at its end, and the ids it has. A last line that is cut off is removed. Raises RequestError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RequestError(f"Another run writes to {path}.", mend="Wait for it, or give another -o.") from error
        yield file, read_done(path, file)
        os.fsync(file.fileno())


def read_done(path: Path, file: BinaryIO) -> set[str]:
    decoder = msgspec.json.Decoder(Done)
    done: set[str] = set()
    whole = 0
    file.seek(0)
    for line in file:
        if not line.endswith(b"\n"):
            break
        try:
            done.add(decoder.decode(line).custom_id)
        except msgspec.MsgspecError as error:
            raise RequestError(f"{path} is no file of answers: {error}.", mend="Give another -o.") from error
        whole += len(line)
    file.truncate(whole)
    file.seek(0, os.SEEK_END)
    return done


def answer_line(task: Task, request_id: str, status: int, body: bytes) -> bytes:
    """A refused request has an answer too: its status and what the server said."""
    try:
        said: Any = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        said = body.decode("utf-8", "replace")
    response = {"status_code": status, "request_id": request_id, "body": said}
    answer = {"id": f"batch_{request_id}", "custom_id": task.custom_id, "response": response, "error": None}
    return msgspec.json.encode(answer) + b"\n"
