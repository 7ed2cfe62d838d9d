"""Chunks to Anthropic's server-sent events: one message of blocks, each begun, filled and ended before the next."""

from __future__ import annotations

from typing import Any

import msgspec

from ingot.client.anthropic.convert import (
    failure_body,
    message_body,
    stop_body,
    thinking_block,
    usage_body,
    use_block,
)
from ingot.client.dialect import check_whole
from ingot.client.openai.answers import Reading, call_body
from ingot.client.openai.errors import describe
from ingot.runtime.request import Chunk


def event(body: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (body["type"].encode(), msgspec.json.encode(body))


class MessageEvents:
    def __init__(self, request_id: str, model: str, reading: Reading) -> None:
        self._request_id, self._model = request_id, model
        self._reader = reading.reader()
        self._begun = False
        self._open: str | int | None = None  # the block being filled: thinking, text, or a call's number
        self._index = -1  # of the last block begun

    def event(self, chunk: Chunk, prompt: int = 0) -> bytes:
        check_whole(chunk)
        events = b""
        if not self._begun:
            self._begun = True
            events = self._start(len(chunk.prompt_token_ids or []))
        ended = chunk.finish_reason is not None
        delta = self._reader.push(chunk.text, last=ended)
        if delta.reasoning:
            events += self._block("thinking", thinking_block(""))
            events += self._delta({"type": "thinking_delta", "thinking": delta.reasoning})
        if delta.content:
            events += self._block("text", {"type": "text", "text": ""})
            events += self._delta({"type": "text_delta", "text": delta.content})
        for piece in delta.calls:
            if piece.name is not None:
                events += self._block(piece.number, use_block(call_body(piece)))
            if piece.arguments:
                events += self._delta({"type": "input_json_delta", "partial_json": piece.arguments})
        return events + self._end(chunk) if ended else events

    def _start(self, prompt_tokens: int) -> bytes:
        """How much of the prompt was cached is said at the end."""
        message = message_body(self._request_id, self._model, [], {"input_tokens": prompt_tokens, "output_tokens": 0})
        return event({"type": "message_start", "message": message}) + event({"type": "ping"})

    def _block(self, kind: str | int, body: dict[str, Any]) -> bytes:
        """Ends the block before and begins this one, unless it is open already."""
        if self._open == kind:
            return b""
        ended = self._close()
        self._open, self._index = kind, self._index + 1
        return ended + event({"type": "content_block_start", "index": self._index, "content_block": body})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return event({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        signed = self._delta({"type": "signature_delta", "signature": ""}) if self._open == "thinking" else b""
        self._open = None
        return signed + event({"type": "content_block_stop", "index": self._index})

    def _end(self, chunk: Chunk) -> bytes:
        """An answer that says nothing has an empty text, as one that does not stream."""
        events = self._block("text", {"type": "text", "text": ""}) if self._index < 0 else b""
        events += self._close()
        if chunk.usage is None:
            return events
        stop = stop_body(chunk.finish_reason, chunk.stop_reason, called=self._reader.called)
        return events + event({"type": "message_delta", "delta": stop, "usage": usage_body(chunk.usage)})

    def end(self) -> bytes:
        return event({"type": "message_stop"})

    def error(self, error: Exception) -> bytes:
        status, message, code, _ = describe(error)
        return event(failure_body(status, message, code))
