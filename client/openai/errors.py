"""Every failure as OpenAI's error JSON: {"error": {message, type, param, code}}, in a response or inside a stream."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from ingot.errors import IngotError, RequestError

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    431: "invalid_request_error",
    429: "rate_limit_error",
}
RETRY_AFTER = {429: "1", 503: "2"}  # seconds

logger = logging.getLogger(__name__)


class ClientGoneError(Exception):
    """The client closed the connection before its answer was ready; nobody reads what is sent now."""


def error_body(status: int, message: str, *, code: str | None, param: str | None = None) -> dict[str, Any]:
    kind = TYPES.get(status, "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(status: int, message: str, *, code: str | None, param: str | None = None) -> Response:
    headers = {"Retry-After": RETRY_AFTER[status]} if status in RETRY_AFTER else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    content = msgspec.json.encode(error_body(status, message, code=code, param=param))
    return Response(content, status, headers, media_type="application/json")


def describe(error: Exception) -> tuple[int, str, str | None, str | None]:
    """Status, message, code and param of any failure. What is not ours is logged and not shown."""
    if isinstance(error, IngotError):
        return error.http_status, str(error), error.code, getattr(error, "param", None)
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail), None, None
    logger.error("unexpected failure", exc_info=error)
    return 500, "The server failed to answer; its log says why.", IngotError.code, None


def error_event(error: Exception) -> bytes:
    """The failure as the last event of a stream that had begun well."""
    status, message, code, param = describe(error)
    return b"data: " + msgspec.json.encode(error_body(status, message, code=code, param=param)) + b"\n\n"


def from_validation(error: ValidationError) -> RequestError:
    """The first field that is wrong. Where it may be of several kinds, what each would need."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    unknown = [one["loc"] for one in found if one["type"] == "extra_forbidden" and in_no_union(one["loc"])]
    if unknown:
        param = path_of(unknown[0])
        return RequestError(f"Unknown field '{param}'.", mend="Remove it.", param=param)
    same_field = [one for one in found if one["loc"][:1] == found[0]["loc"][:1]]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*(one["loc"] for one in same_field), strict=False))
    param = path_of([parts[0] for parts in shared])
    needs = ", or: ".join(dict.fromkeys(one["msg"] for one in same_field))
    return RequestError(f"'{param}': {needs}.", mend="See /docs for the fields and their ranges.", param=param)


def in_no_union(location: Sequence[int | str]) -> bool:
    """pydantic names the kind within a union, `list[TextPart]`; every field of ours is an identifier in lower case."""
    return all(isinstance(part, int) or "[" not in part for part in location)


def path_of(location: Sequence[int | str]) -> str:
    """`messages[0].content` out of pydantic's location."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def install(app: FastAPI) -> None:
    """One handler for every failure of every route."""

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, ClientGoneError):
            return Response(status_code=499)
        status, message, code, param = describe(error)
        return error_response(status, message, code=code, param=param)

    for kind in (IngotError, HTTPException, ClientGoneError, Exception):
        app.add_exception_handler(kind, answer)
