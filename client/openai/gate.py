"""What every request passes before any route: its id, its key, the size of its body. Plain ASGI; knows no route."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingot.client.openai.errors import error_response
from ingot.client.page.paths import OPEN_FILES

MAX_ID_LENGTH = 128
DEFAULT_BODY_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class GateOptions:
    api_keys: Sequence[str] = ()  # none: open to all
    open_health: bool = False  # /health and /ping answer without a key, for probes that cannot send one
    max_body_bytes: int = DEFAULT_BODY_BYTES


class Gate:
    """Wraps the whole app, so that a route added later is guarded too."""

    def __init__(self, app: ASGIApp, options: GateOptions) -> None:
        self._app = app
        self._options = options
        self._digests = [digest(key.encode()) for key in options.api_keys]
        self._open = {"/health", "/ping"} if options.open_health else set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # there are no websockets; a server answers 403 to an app that does not accept
        headers = Headers(scope=scope)
        request_id = sane_id(headers.get("x-request-id"))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        if self._digests and not self._is_open(scope) and not self._knows(headers):
            refusal = error_response(
                401, "The API key is missing or wrong. Send Authorization: Bearer KEY.", code="invalid_api_key"
            )
            await refusal(scope, receive, send_with_id)
            return
        limit = self._options.max_body_bytes
        if int_or_zero(headers.get("content-length")) > limit:
            refusal = error_response(413, too_large(limit).detail, code=None)
            await refusal(scope, receive, send_with_id)
            return
        await self._app(scope, bounded(receive, limit), send_with_id)

    def _is_open(self, scope: Scope) -> bool:
        """The status page's files hold no figures; what they show comes from a route that asks for the key."""
        return scope["path"] in self._open or (scope["path"] in OPEN_FILES and scope["method"] in {"GET", "HEAD"})

    def _knows(self, headers: Headers) -> bool:
        """Every key is compared, in constant time."""
        given = caller_of(headers)
        matches = [hmac.compare_digest(given, known) for known in self._digests]
        return any(matches)


def caller_of(headers: Headers) -> bytes:
    """The digest of the key that was sent, of an empty one where there is none. Anthropic's clients use X-Api-Key."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        key = headers.get("x-api-key", "")
    return digest(key.strip().encode("latin-1"))  # as ASGI decodes header bytes


def digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def sane_id(given: str | None) -> str:
    """The caller's id if it is short and printable, so that it can stand in logs; else a new one."""
    if given and len(given) <= MAX_ID_LENGTH and given.isascii() and given.isprintable():
        return given
    return uuid.uuid4().hex


def int_or_zero(text: str | None) -> int:
    return int(text) if text and text.isdigit() and len(text) < 20 else 0


def too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"The body is larger than {limit} bytes. Send a smaller one.")


def bounded(receive: Receive, limit: int) -> Receive:
    """Counts a body that did not say its length."""
    taken = 0

    async def receive_some() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise too_large(limit)
        return message

    return receive_some
