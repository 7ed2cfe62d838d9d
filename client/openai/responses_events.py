"""Chunks to the server-sent events of /v1/responses: one response of items, each begun, filled and ended before the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ingot.client.openai.answers import Reading, call_body
from ingot.client.openai.replies import Outcome
from ingot.client.openai.responses import Answer, check_whole, status_of
from ingot.client.openai.responses_items import call_item, filled, message_item, part_of, reasoning_item
from ingot.runtime.request import Chunk

OnEnd = Callable[[Outcome, list[dict[str, Any]]], None]
TEXT_EVENTS = {"message": "response.output_text", "reasoning": "response.reasoning_text"}


class ResponseEvents:
    def __init__(self, answer: Answer, reading: Reading, on_end: OnEnd) -> None:
        """`on_end` hears what was said, and its items, when it has been said whole."""
        self._answer, self._on_end = answer, on_end
        self._reader = reading.reader()
        self._outcome = Outcome()
        self._number = 0
        self._output: list[dict[str, Any]] = []  # items that have ended
        self._item: dict[str, Any] | None = None  # the one being filled
        self._text = ""  # of it

    def event(self, chunk: Chunk, prompt: int = 0) -> bytes:
        events = b"" if self._number else self._start()
        self._outcome.add(chunk)
        ended = chunk.finish_reason is not None
        delta = self._reader.push(chunk.text, last=ended)
        if delta.reasoning:
            events += self._to(reasoning_item, "reasoning") + self._add(delta.reasoning)
        if delta.content:
            events += self._to(message_item, "message") + self._add(delta.content)
        for piece in delta.calls:
            if piece.name is not None:
                events += self._close() + self._open(call_item(call_body(piece)))
            if piece.arguments:
                events += self._add(piece.arguments)
        return events + self._finish() if ended else events

    def end(self) -> bytes:
        return b""

    def error(self, error: Exception) -> bytes:
        return self._event("response.failed", response=self._answer.failed(error))

    def _start(self) -> bytes:
        begun = self._answer.begun()
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def _to(self, make: Callable[[], dict[str, Any]], kind: str) -> bytes:
        """Ends the item before and begins one of this kind, unless such a one is open."""
        if self._item is not None and self._item["type"] == kind:
            return b""
        return self._close() + self._open(make())

    def _open(self, item: dict[str, Any]) -> bytes:
        self._item, self._text = item, ""
        added = self._event("response.output_item.added", output_index=len(self._output), item=item)
        if item["type"] == "function_call":
            return added
        return added + self._part_event("response.content_part.added", part=part_of(item, ""))

    def _add(self, text: str) -> bytes:
        self._text += text
        if self._item is not None and self._item["type"] == "function_call":
            return self._item_event("response.function_call_arguments.delta", delta=text)
        return self._text_event("delta", delta=text)

    def _close(self, status: str = "completed") -> bytes:
        item, text = self._item, self._text
        if item is None:
            return b""
        ended = filled(item, text) | {"status": status}
        if item["type"] == "function_call":
            events = self._item_event("response.function_call_arguments.done", name=item["name"], arguments=text)
        else:
            events = self._text_event("done", text=text)
            events += self._part_event("response.content_part.done", part=part_of(item, text))
        events += self._event("response.output_item.done", output_index=len(self._output), item=ended)
        self._output.append(ended)
        self._item = None
        return events

    def _finish(self) -> bytes:
        """An answer that says nothing has a message without words, as one that does not stream."""
        check_whole(self._outcome)
        status = status_of(self._outcome)
        events = self._open(message_item()) if self._item is None and not self._output else b""
        events += self._close(status)
        self._on_end(self._outcome, self._output)
        return events + self._event(f"response.{status}", response=self._answer.ended(self._outcome, self._output))

    def _text_event(self, what: str, **fields: Any) -> bytes:
        kind = self._item["type"] if self._item is not None else "message"
        scored: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        return self._part_event(f"{TEXT_EVENTS[kind]}.{what}", **fields, **scored)

    def _part_event(self, kind: str, **fields: Any) -> bytes:
        return self._item_event(kind, content_index=0, **fields)

    def _item_event(self, kind: str, **fields: Any) -> bytes:
        item_id = self._item["id"] if self._item is not None else ""
        return self._event(kind, item_id=item_id, output_index=len(self._output), **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        body = msgspec.json.encode({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), body)
