"""Chunks to Anthropic's server-sent events: one message of one text block."""

from __future__ import annotations

from typing import Any

import msgspec

from ingot.client.anthropic.convert import failure_body, message_body, stop_body, usage_body
from ingot.client.dialect import check_whole
from ingot.client.openai.errors import describe
from ingot.runtime.request import Chunk


def event(body: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (body["type"].encode(), msgspec.json.encode(body))


class MessageEvents:
    def __init__(self, request_id: str, model: str) -> None:
        self._request_id, self._model = request_id, model
        self._begun = False

    def event(self, chunk: Chunk, prompt: int = 0) -> bytes:
        check_whole(chunk)
        events = b""
        if not self._begun:
            self._begun = True
            events = self._start(len(chunk.prompt_token_ids or []))
        if chunk.text:
            delta = {"type": "text_delta", "text": chunk.text}
            events += event({"type": "content_block_delta", "index": 0, "delta": delta})
        if chunk.finish_reason is not None and chunk.usage is not None:
            events += event({"type": "content_block_stop", "index": 0})
            stop = stop_body(chunk.finish_reason, chunk.stop_reason)
            events += event({"type": "message_delta", "delta": stop, "usage": usage_body(chunk.usage)})
        return events

    def _start(self, prompt_tokens: int) -> bytes:
        """How much of the prompt was cached is said at the end."""
        message = message_body(self._request_id, self._model, [], {"input_tokens": prompt_tokens, "output_tokens": 0})
        block = {"type": "text", "text": ""}
        return (
            event({"type": "message_start", "message": message})
            + event({"type": "content_block_start", "index": 0, "content_block": block})
            + event({"type": "ping"})
        )

    def end(self) -> bytes:
        return event({"type": "message_stop"})

    def error(self, error: Exception) -> bytes:
        status, message, code, _ = describe(error)
        return event(failure_body(status, message, code))
