"""Chunks to the server-sent events of /v1/responses: one response of one message of one text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ingot.client.openai.replies import Outcome
from ingot.client.openai.responses import Answer, text_part
from ingot.runtime.request import Chunk


class ResponseEvents:
    def __init__(self, answer: Answer, on_end: Callable[[Outcome], None]) -> None:
        """`on_end` hears what was said when it has been said whole."""
        self._answer, self._on_end = answer, on_end
        self._outcome = Outcome()
        self._number = 0

    def event(self, chunk: Chunk, prompt: int = 0) -> bytes:
        events = b"" if self._number else self._start()
        self._outcome.add(chunk)
        if chunk.text:
            events += self._text_event("response.output_text.delta", delta=chunk.text, logprobs=[])
        if chunk.finish_reason is not None:
            events += self._finish()
        return events

    def end(self) -> bytes:
        return b""

    def error(self, error: Exception) -> bytes:
        return self._event("response.failed", response=self._answer.failed(error))

    def _start(self) -> bytes:
        begun = self._answer.begun()
        return (
            self._event("response.created", response=begun)
            + self._event("response.in_progress", response=begun)
            + self._event("response.output_item.added", output_index=0, item=self._answer.item(None, "in_progress"))
            + self._text_event("response.content_part.added", part=text_part(""))
        )

    def _finish(self) -> bytes:
        text = self._outcome.text
        response = self._answer.ended(self._outcome)
        self._on_end(self._outcome)
        return (
            self._text_event("response.output_text.done", text=text, logprobs=[])
            + self._text_event("response.content_part.done", part=text_part(text))
            + self._event("response.output_item.done", output_index=0, item=response["output"][0])
            + self._event(f"response.{response['status']}", response=response)
        )

    def _text_event(self, kind: str, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._answer.item_id, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        body = msgspec.json.encode({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), body)
