"""Chunks to Ollama's lines: one JSON object each, the last with the figures."""

from __future__ import annotations

from typing import Any

import msgspec

from ingot.client.dialect import check_whole
from ingot.client.ollama.convert import Reply, failure_body
from ingot.client.openai.errors import describe
from ingot.runtime.request import Chunk


def line(body: dict[str, Any]) -> bytes:
    return msgspec.json.encode(body) + b"\n"


class Lines:
    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def event(self, chunk: Chunk, prompt: int = 0) -> bytes:
        check_whole(chunk)
        self._reply.arrived()
        pieces = b""
        if chunk.text or chunk.logprobs:
            pieces = line(self._reply.piece(chunk.text, chunk.logprobs))
        if chunk.finish_reason is not None:
            pieces += line(self._reply.piece("") | self._reply.last(chunk.finish_reason, chunk.usage))
        return pieces

    def end(self) -> bytes:
        return b""

    def error(self, error: Exception) -> bytes:
        status, message, code, _ = describe(error)
        return line(failure_body(status, message, code))
