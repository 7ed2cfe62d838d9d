"""How log lines look: text for people, or one JSON object a line. Knows whose request a line belongs to; no HTTP."""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]
MARKS: ContextVar[dict[str, str]] = ContextVar("log marks", default={})  # noqa: B039 - never changed, always set anew
FIELDS = "fields"  # of a record's `extra`: what a JSON line says beside the message


class JsonLines(logging.Formatter):
    """One object a line; newlines and control characters are JSON's escapes, so nothing forges a line."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": at, "level": record.levelname.lower(), "logger": record.name}
        line |= {"process": self._process, "message": record.getMessage(), **MARKS.get()}
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # ASCII, so that nothing in it steers a terminal


def set_up_logs(level: str, form: LogFormat, *, process: Literal["server", "executor"]) -> None:
    """Of the whole process, to stderr."""
    handler = logging.StreamHandler()
    if form == "json":
        handler.setFormatter(JsonLines(process))
    else:
        who = "executor " if process == "executor" else ""
        handler.setFormatter(logging.Formatter(f"%(asctime)s {who}%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
