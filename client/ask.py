"""Asking a running server from a terminal: one chat, streamed. Speaks HTTP with the standard library alone."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ingot.errors import IngotError, UnavailableError

TIMEOUT_SECONDS = 600.0  # between two pieces of an answer; the first may wait in the queue


@dataclass(slots=True)
class Answer:
    """What one question brought; filled while its text is read."""

    text: str = ""
    completion_tokens: int = 0
    first_token_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """After the first token."""
        decoding = self.seconds - self.first_token_seconds
        return (self.completion_tokens - 1) / decoding if self.completion_tokens > 1 and decoding > 0 else 0.0


class Chat:
    """Questions and answers so far, with one server."""

    def __init__(
        self, url: str, *, api_key: str | None = None, model: str | None = None, system: str | None = None
    ) -> None:
        """Asks the server for its model where none is named. Raises UnavailableError where nobody answers."""
        self._parts = urlsplit(url if "://" in url else f"http://{url}")
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
        self.model = model or self._first_model()

    def ask(self, question: str, answer: Answer, **sampling: Any) -> Iterator[str]:
        """Pieces of the answer as they come; `answer` holds the figures afterwards."""
        self._messages.append({"role": "user", "content": question})
        fields = {name: value for name, value in sampling.items() if value is not None}
        body = {"model": self.model, "messages": self._messages, "stream": True, **fields}
        body["stream_options"] = {"include_usage": True}
        began = time.monotonic()
        for event in self._events("POST", "/v1/chat/completions", body):
            if event.get("usage"):
                answer.completion_tokens = event["usage"]["completion_tokens"]
            for choice in event.get("choices", []):
                if piece := choice["delta"].get("content"):
                    answer.first_token_seconds = answer.first_token_seconds or time.monotonic() - began
                    answer.text += piece
                    yield piece
        answer.seconds = time.monotonic() - began
        self._messages.append({"role": "assistant", "content": answer.text})

    def _first_model(self) -> str:
        with closing(self._connect()) as connection:
            name: str = json.load(self._request(connection, "GET", "/v1/models", None))["data"][0]["id"]
        return name

    def _events(self, method: str, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with closing(self._connect()) as connection:
            for line in self._request(connection, method, path, body):
                if line.startswith(b"data: {"):
                    event = json.loads(line.removeprefix(b"data: "))
                    if "error" in event:
                        raise IngotError(event["error"]["message"], mend="Ask again.")
                    yield event

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=TIMEOUT_SECONDS)

    def _request(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: dict[str, Any] | None
    ) -> http.client.HTTPResponse:
        root = self._parts.path.rstrip("/").removesuffix("/v1")
        try:
            connection.request(method, root + path, None if body is None else json.dumps(body), self._headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            where = self._parts.geturl()
            raise UnavailableError(
                f"Nobody answers at {where}: {error}.", mend="Start one: ingot serve ENGINE."
            ) from error
        if response.status != 200:
            raise refusal(response)
        return response


def refusal(response: http.client.HTTPResponse) -> IngotError:
    """The server's own words, which say what mends it."""
    said = response.read().decode("utf-8", "replace")
    try:
        message = str(json.loads(said)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"{response.reason}: {said[:200]}"
    return IngotError(f"The server answered {response.status}.", mend=message)
