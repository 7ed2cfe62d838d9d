"""Chunks to Ollama's lines: one JSON object each, the last with the figures."""

from __future__ import annotations

from typing import Any

import msgspec

from ingot.client.dialect import check_whole
from ingot.client.ollama.convert import Reply, failure_body
from ingot.client.openai.answers import Delta, Reading
from ingot.client.openai.errors import describe
from ingot.client.openai.tool_parsers import CallPiece
from ingot.runtime.request import Chunk


def line(body: dict[str, Any]) -> bytes:
    return msgspec.json.encode(body) + b"\n"


class Lines:
    """A call is told when it is whole, for its arguments are an object."""

    def __init__(self, reply: Reply, reading: Reading) -> None:
        self._reply = reply
        self._reader = reading.reader()
        self._call: list[CallPiece] = []  # the pieces of the one being written

    def event(self, chunk: Chunk, prompt: int = 0) -> bytes:
        check_whole(chunk)
        self._reply.arrived()
        ended = chunk.finish_reason is not None
        delta = self._reader.push(chunk.text, last=ended)
        delta.calls = self._whole_calls(delta.calls, last=ended)
        pieces = b""
        if delta.reasoning or delta.content or delta.calls or chunk.logprobs:
            pieces = line(self._reply.piece(delta, chunk.logprobs))
        if ended:
            pieces += line(self._reply.piece(Delta()) | self._reply.last(chunk.finish_reason, chunk.usage))
        return pieces

    def _whole_calls(self, pieces: list[CallPiece], *, last: bool) -> list[CallPiece]:
        """The pieces of calls that another follows, or the answer's end."""
        waiting = self._call + pieces
        newest = waiting[-1].number if waiting and not last else None
        self._call = [piece for piece in waiting if piece.number == newest]
        return [piece for piece in waiting if piece.number != newest]

    def end(self) -> bytes:
        return b""

    def error(self, error: Exception) -> bytes:
        status, message, code, _ = describe(error)
        return line(failure_body(status, message, code))
