"""Who answers a batch: an app in this process, or a server at a URL. Knows HTTP's POST and nothing of files."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import Any, Protocol
from urllib.parse import urlsplit

from starlette.types import ASGIApp

TIMEOUT_SECONDS = 3600.0


class Sender(Protocol):
    async def post(self, path: str, body: bytes, request_id: str) -> tuple[int, bytes]:
        """Status and body. Raises OSError where nobody answers."""
        ...


class AppSender:
    """Calls an ASGI app without a socket."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def post(self, path: str, body: bytes, request_id: str) -> tuple[int, bytes]:
        asked = [{"type": "http.request", "body": body, "more_body": False}]
        status, said = 0, b""

        async def receive() -> MutableMapping[str, Any]:
            if asked:
                return asked.pop()
            await asyncio.Event().wait()  # a client that never leaves
            raise AssertionError

        async def send(message: MutableMapping[str, Any]) -> None:
            nonlocal status, said
            status = message.get("status", status)
            said += message.get("body", b"")

        headers = [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode())]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "server": None,
            "client": None,
        }
        try:
            await self._app(scope, receive, send)
        except Exception:
            if status != 500:  # else the app has logged and answered it, and raises it for a server's sake
                raise
        return status, said


class UrlSender:
    """A connection per request, in threads."""

    def __init__(self, url: str, *, api_key: str | None, connections: int) -> None:
        """`url` with or without a last /v1."""
        self._parts = urlsplit(url if "://" in url else f"http://{url}")
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._threads = ThreadPoolExecutor(connections)
        self._sockets: set[socket.socket] = set()

    def close(self) -> None:
        """Ends what still waits for an answer, so that no thread outlives the batch."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for waiting in [*self._sockets]:
            with suppress(OSError):
                waiting.shutdown(socket.SHUT_RDWR)
        self._threads.shutdown()

    async def post(self, path: str, body: bytes, request_id: str) -> tuple[int, bytes]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._post, path, body, request_id)

    def _post(self, path: str, body: bytes, request_id: str) -> tuple[int, bytes]:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        root = self._parts.path.rstrip("/").removesuffix("/v1")
        try:
            with closing(kind(self._parts.hostname or "", self._parts.port, timeout=TIMEOUT_SECONDS)) as connection:
                connection.connect()
                with self._watched(connection.sock):
                    connection.request("POST", root + path, body, self._headers | {"X-Request-Id": request_id})
                    response = connection.getresponse()
                    return response.status, response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"the answer is not HTTP: {error!r}") from error

    @contextmanager
    def _watched(self, waiting: socket.socket) -> Iterator[None]:
        self._sockets.add(waiting)
        try:
            yield
        finally:
            self._sockets.discard(waiting)
