"""A request's bytes to a checked wire type. Refuses what is not JSON, too deep, of the wrong type, unknown or unsupported."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from ingot.client.openai.errors import ClientGoneError, from_validation
from ingot.client.openai.refusals import Refusal, refuse
from ingot.errors import RequestError

LARGE_BYTES = 1 << 16  # parsed in a thread, so that everybody's tokens do not wait for it
MAX_VALUES = 1 << 20
MAX_DEPTH = 64
MAX_KEYS = 4096  # of one object

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, kind: type[Body], refused: Mapping[str, Refusal] | None = None) -> Body:
    """Raises RequestError, naming the field where there is one."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise RequestError(
            f"The content type is {content_type[:80]!r}.", mend="Send JSON with Content-Type: application/json."
        )
    try:
        raw = await request.body()
    except ClientDisconnect as error:
        raise ClientGoneError from error
    if len(raw) < LARGE_BYTES:
        return parse_body(raw, kind, refused or {})
    return await asyncio.to_thread(parse_body, raw, kind, refused or {})


def parse_body(raw: bytes, kind: type[Body], refused: Mapping[str, Refusal]) -> Body:
    if sum(raw.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:  # before they become objects
        raise RequestError(f"The body has more than {MAX_VALUES} values.", mend="Send several requests.")
    try:
        fields = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RequestError(f"The body is not valid JSON: {error}.", mend="Send one JSON object in UTF-8.") from error
    if not isinstance(fields, dict):
        raise RequestError("The body is not a JSON object.", mend="Send one JSON object.")
    check_shape(fields)
    fields = refuse(fields, refused)
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error) from error


def check_shape(fields: dict[str, Any]) -> None:
    """Bounds depth and keys before anything looks at values, level by level and without recursion. Raises RequestError."""
    level: list[Any] = [fields]
    for _ in range(MAX_DEPTH):
        if any(isinstance(parent, dict) and len(parent) > MAX_KEYS for parent in level):
            raise RequestError(f"The body has an object of more than {MAX_KEYS} keys.", mend="Send fewer.")
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise RequestError(f"The body nests deeper than {MAX_DEPTH} levels.", mend="Flatten it.")
