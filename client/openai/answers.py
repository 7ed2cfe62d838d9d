"""An answer's text, as it comes, to what a chat message is made of: thoughts, content, tool calls. Knows no HTTP."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ingot.client.openai.reasoning import MARKS, ReasoningSplitter
from ingot.client.openai.tool_parsers import CallPiece, Piece, ToolParser


@dataclass(slots=True)
class Delta:
    """What is new of a message."""

    reasoning: str = ""
    content: str = ""
    calls: list[CallPiece] = field(default_factory=list)

    def add(self, pieces: list[Piece], *, several: bool) -> None:
        for piece in pieces:
            if isinstance(piece, str):
                self.content += piece
            elif several or piece.number == 0:
                self.calls.append(piece)


@dataclass(slots=True)
class AnswerReader:
    """Of one sequence. Thoughts come first; calls are looked for in the rest."""

    splitter: ReasoningSplitter | None
    tools: ToolParser | None
    several: bool = True  # calls; otherwise those after the first fall away
    called: bool = False

    def push(self, text: str, *, last: bool) -> Delta:
        delta = Delta()
        if self.splitter is not None:
            delta.reasoning, text = self.splitter.push(text)
            if last:
                thought, said = self.splitter.finish()
                delta.reasoning, text = delta.reasoning + thought, text + said
        if self.tools is None:
            delta.content = text
            return delta
        delta.add(self.tools.push(text), several=self.several)
        if last:
            delta.add(self.tools.finish(), several=self.several)
        self.called = self.called or bool(delta.calls)
        return delta


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How the answers of one request are read."""

    tools: Callable[[], ToolParser] | None = None
    reasoning: str | None = None  # a name in MARKS
    several: bool = True  # False: parallel_tool_calls is, and a model that was not made to obey may call more than once
    named: bool = False  # the caller named the function, so that calling it says nothing new: OpenAI's reason is "stop"

    @property
    def needed(self) -> bool:
        return self.tools is not None or self.reasoning is not None

    def reader(self) -> AnswerReader:
        splitter = ReasoningSplitter(MARKS[self.reasoning]) if self.reasoning else None
        return AnswerReader(splitter, self.tools() if self.tools else None, self.several)

    def finish_reason(self, reader: AnswerReader, reason: str | None) -> str | None:
        return "tool_calls" if reader.called and reason == "stop" and not self.named else reason

    def whole(self, text: str) -> Delta:
        return self.reader().push(text, last=True)

    def message(self, text: str, reason: str | None) -> tuple[dict[str, Any], str | None]:
        """The whole message, and its finish_reason."""
        reader = self.reader()
        delta = reader.push(text, last=True)
        message: dict[str, Any] = {"role": "assistant", "content": delta.content, "refusal": None}
        if self.reasoning is not None:
            message["reasoning_content"] = delta.reasoning or None
        if delta.calls:
            message["content"] = delta.content or None
            message["tool_calls"] = joined(delta.calls)
        return message, self.finish_reason(reader, reason)


AS_TEXT = Reading()


def delta_body(delta: Delta) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if delta.reasoning:
        body["reasoning_content"] = delta.reasoning
    if delta.content:
        body["content"] = delta.content
    if delta.calls:
        body["tool_calls"] = [{"index": piece.number, **call_body(piece)} for piece in delta.calls]
    return body


def call_body(piece: CallPiece) -> dict[str, Any]:
    """The first piece of a call carries its id and name."""
    if piece.name is None:
        return {"function": {"arguments": piece.arguments}}
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def joined(pieces: list[CallPiece]) -> list[dict[str, Any]]:
    """Whole calls of all their pieces."""
    calls: dict[int, dict[str, Any]] = {}
    for piece in pieces:
        if piece.number in calls:
            calls[piece.number]["function"]["arguments"] += piece.arguments
        else:
            calls[piece.number] = call_body(piece)
    return list(calls.values())
