"""What every request passes before any route: its id, its key, its limits, its line in the log. Plain ASGI; knows no route."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingot.client.front import TRACE_CONTEXT
from ingot.client.keys import ApiKey, digest_of, owner_of, read_keys
from ingot.client.openai.errors import error_response
from ingot.client.page.paths import OPEN_FILES
from ingot.client.throttle import Throttle
from ingot.runtime.logs import FIELDS, MARKS

MAX_ID_LENGTH = 128
MAX_LOGGED_PATH = 200
DEFAULT_BODY_BYTES = 32 << 20
DEFAULT_HEADER_BYTES = 16 << 10
DEFAULT_CONCURRENT = 2048
TRACE_HEADERS = ("traceparent", "tracestate")

logger = logging.getLogger("ingot.access")


@dataclass(frozen=True, kw_only=True, slots=True)
class GateOptions:
    api_keys: Sequence[str | ApiKey] = ()  # as read_keys takes them; none: open to all
    open_health: bool = False  # /health and /ping answer without a key, for probes that cannot send one
    max_body_bytes: int = DEFAULT_BODY_BYTES
    max_header_bytes: int = DEFAULT_HEADER_BYTES  # of one request, names and values
    body_seconds: float = 60.0  # from a request's head to the end of its body
    max_concurrent: int = DEFAULT_CONCURRENT  # POST requests at a time, of all callers
    access_level: int = logging.DEBUG  # at which each request's line is logged


class Gate:
    """Wraps the whole app, so that a route added later is guarded too. Limits count POST requests: they are what costs."""

    def __init__(self, app: ASGIApp, options: GateOptions) -> None:
        """Raises IngotError where a key cannot be read."""
        self._app = app
        self._options = options
        texts = [key for key in options.api_keys if isinstance(key, str)]
        self._keys = [*(key for key in options.api_keys if isinstance(key, ApiKey)), *read_keys(texts)]
        self._throttles = {key.name: Throttle(key.requests_per_minute, key.concurrent) for key in self._keys}
        self._anybody = Throttle(None, None)
        self._open = {"/health", "/ping"} if options.open_health else set()
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # there are no websockets; a server answers 403 to an app that does not accept
        headers = Headers(scope=scope)
        key = owner_of(caller_of(headers), self._keys)
        throttle = self._anybody if key is None else self._throttles[key.name]
        marks = {"request_id": sane_id(headers.get("x-request-id"))} | ({"key": key.name} if key else {})
        MARKS.set(marks)
        TRACE_CONTEXT.set({name: headers[name] for name in TRACE_HEADERS if name in headers})
        began, status = time.monotonic(), 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update({"X-Request-Id": marks["request_id"], **throttle.headers()})
            await send(message)

        try:
            refusal = self._refusal(scope, headers, key)
            if refusal is not None:
                await refusal(scope, receive, send_marked)
            elif scope["method"] == "POST":
                await self._counted(throttle, scope, receive, send_marked)
            else:
                await self._app(scope, self._bounded(receive), send_marked)
        finally:
            self._log(scope, status, time.monotonic() - began)

    async def _counted(self, throttle: Throttle, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a POST request, or refuses it where too many are answered already."""
        seconds, reason = throttle.enter()
        if seconds:
            await too_many(reason, seconds, code="rate_limit_exceeded")(scope, receive, send)
            return
        self._running += 1
        try:
            if self._running > self._options.max_concurrent:
                reason = f"{self._options.max_concurrent} requests run already, as many as this server takes"
                await too_many(reason, 1, code="queue_full")(scope, receive, send)
            else:
                await self._app(scope, self._bounded(receive), send)
        finally:
            self._running -= 1
            throttle.leave()

    def _bounded(self, receive: Receive) -> Receive:
        """Counts a body that did not say its length, and the time it takes."""
        limit, seconds = self._options.max_body_bytes, self._options.body_seconds
        deadline = asyncio.get_running_loop().time() + seconds
        taken, whole = 0, False

        async def receive_some() -> Message:
            nonlocal taken, whole
            if whole:
                return await receive()  # the client's leaving, for which there is no hurry
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"The body did not arrive within {seconds:g} s. Send it at once.") from error
            whole = not message.get("more_body", False)
            taken += len(message.get("body", b""))
            if taken > limit:
                raise too_large(limit)
            return message

        return receive_some

    def _refusal(self, scope: Scope, headers: Headers, key: ApiKey | None) -> Response | None:
        """To a request that says by its head alone that it may not pass."""
        options = self._options
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size > options.max_header_bytes:
            sentence = f"The headers have {size} bytes; {options.max_header_bytes} are allowed. Send fewer."
            return error_response(431, sentence, code=None)
        if self._keys and key is None and not self._is_open(scope):
            sentence = "The API key is missing or wrong. Send Authorization: Bearer KEY."
            return error_response(401, sentence, code="invalid_api_key")
        if int_or_zero(headers.get("content-length")) > options.max_body_bytes:
            return error_response(413, too_large(options.max_body_bytes).detail, code=None)
        return None

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        """Status 499: the client left before its answer began."""
        if logger.isEnabledFor(self._options.access_level):
            path = quote(scope["path"][:MAX_LOGGED_PATH], safe="/:@~")
            method = scope["method"] if scope["method"].isalpha() else "?"
            fields = {"method": method, "path": path, "status": status or 499, "seconds": round(seconds, 4)}
            marks = MARKS.get()
            line = f"{method} {path} {status or 499} {seconds:.3f} s {marks['request_id']} {marks.get('key', '-')}"
            logger.log(self._options.access_level, "%s", line, extra={FIELDS: fields})

    def _is_open(self, scope: Scope) -> bool:
        """The status page's files hold no figures; what they show comes from a route that asks for the key."""
        return scope["path"] in self._open or (scope["path"] in OPEN_FILES and scope["method"] in {"GET", "HEAD"})


def caller_of(headers: Headers) -> bytes:
    """The digest of the key that was sent, of an empty one where there is none. Anthropic's clients use X-Api-Key."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        key = headers.get("x-api-key", "")
    return digest_of(key.strip().encode("latin-1"))  # as ASGI decodes header bytes


def sane_id(given: str | None) -> str:
    """The caller's id if it is short and printable, so that it can stand in logs; else a new one."""
    if given and len(given) <= MAX_ID_LENGTH and given.isascii() and given.isprintable():
        return given
    return uuid.uuid4().hex


def int_or_zero(text: str | None) -> int:
    return int(text) if text and text.isdigit() and len(text) < 20 else 0


def too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"The body is larger than {limit} bytes. Send a smaller one.")


def too_many(reason: str, seconds: float, *, code: str) -> Response:
    wait = max(1, math.ceil(seconds))
    refusal = error_response(429, f"Too many requests: {reason}. Try again in {wait} s.", code=code)
    refusal.headers["Retry-After"] = str(wait)
    return refusal
