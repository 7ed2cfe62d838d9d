"""Finds tool calls in an answer as it comes, in the notations of the model families. Text in, pieces out; knows no wire format."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol

from ingot.client.openai.json_calls import CallReader


@dataclass(frozen=True, slots=True)
class CallPiece:
    """Part of the call of that number: its name in the first piece, then its arguments, JSON in pieces."""

    number: int
    name: str | None
    arguments: str


Piece = str | CallPiece  # plain text, or part of a call


class ToolParser(Protocol):
    def push(self, text: str) -> list[Piece]: ...

    def finish(self) -> list[Piece]:
        """What was held back, at the end of the answer."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Notation:
    """How a family writes calls: objects with a name and arguments, between marks or from the answer's beginning on."""

    start: str
    end: str | None = None  # None: calls go on to the answer's end
    bare: bool = False  # an answer that begins with { or [ is calls, without a mark
    members: tuple[tuple[str, ...], ...] = (
        ("name", "arguments"),
        ("arguments", "name"),
    )  # how calls that must fit are spelled
    named: re.Pattern[str] | None = None  # what may stand for `{"name": NAME, "arguments":` before the arguments


# Llama 3: github.com/meta-llama/llama-models prompt_format.md; Hermes: github.com/NousResearch/Hermes-Function-Calling;
# Mistral: mistral-common's instruct tokenizers, v3 (a list) and v11 (name[ARGS]{...}).
NOTATIONS = {
    "hermes": Notation(start="<tool_call>", end="</tool_call>"),
    "llama3_json": Notation(
        start="<|python_tag|>", bare=True, members=(("type", "name", "parameters"), ("name", "arguments"))
    ),
    "mistral": Notation(start="[TOOL_CALLS]", named=re.compile(r"([\w.-]{1,128})(?:\[ARGS\])?(?={)")),
}
LISTED = Notation(start="", bare=True)  # a JSON list of calls, which a grammar enforced
BETWEEN = " \t\r\n,;[]"


@dataclass(slots=True)
class MarkedCalls:
    """See ToolParser."""

    notation: Notation
    _buffer: str = ""
    _mode: str = "begin"  # begin | text | between | call
    _call: CallReader = field(default_factory=CallReader)
    _calls: int = 0
    _announced: bool = False  # the call that is being read has had its first piece
    _has_arguments: bool = False
    _skipped: str = ""  # between calls

    def push(self, text: str) -> list[Piece]:
        self._buffer += text
        pieces: list[Piece] = []
        while self._advance(pieces):
            pass
        return pieces

    def finish(self) -> list[Piece]:
        if self._announced:
            return []  # the answer was cut within a call
        if self._mode in ("call", "between"):
            self._back_to_text(self._call.held if self._mode == "call" else "")
        rest, self._buffer = self._buffer, ""
        return [rest] if rest and (rest.strip() or not self._calls) else []

    def _advance(self, pieces: list[Piece]) -> bool:
        """One move; False when it takes more text to go on."""
        match self._mode:
            case "begin":
                return self._begin()
            case "text":
                return self._text(pieces)
            case "said":  # the buffer begins with what turned out to be text, marks and all
                pieces.append(self._buffer)
                self._buffer, self._mode = "", "text"
                return False
            case "between":
                return self._between(pieces)
            case _:
                return self._read_call(pieces)

    def _begin(self) -> bool:
        head = self._buffer.lstrip()
        if not head:
            return False
        is_calls = self.notation.bare and head[0] in "{["
        self._mode = "between" if is_calls else "text"
        self._buffer = head if is_calls else self._buffer
        return True

    def _text(self, pieces: list[Piece]) -> bool:
        start = self.notation.start
        place = self._buffer.find(start) if start else -1
        if place < 0:
            keep = len(self._buffer[: possible_start(self._buffer, start)].rstrip())  # spaces before a mark fall away
            said, self._buffer = self._buffer[:keep], self._buffer[keep:]
        else:
            said, rest = self._buffer[:place].rstrip(), self._buffer[place + len(start) :]
            self._skipped, self._mode = self._buffer[len(said) : place + len(start)], "between"
            self._buffer = rest
        if said:
            pieces.append(said)
        return place >= 0

    def _between(self, pieces: list[Piece]) -> bool:
        start, end, named = self.notation.start, self.notation.end, self.notation.named
        self._buffer = self._buffer.removeprefix(start) if start else self._buffer
        if start.startswith(self._buffer):
            return False
        rest = self._buffer.lstrip(BETWEEN)
        self._skipped += self._buffer[: len(self._buffer) - len(rest)]
        self._buffer = rest
        if not self._buffer:
            return False
        if self._buffer[0] == "{":
            self._call, self._mode = CallReader(), "call"
            return True
        if end and self._buffer.startswith(end):
            self._buffer, self._mode = self._buffer[len(end) :], "text"
            return True
        found = named.match(self._buffer) if named else None
        if found is not None:
            self._buffer = self._buffer[found.end() :]
            self._call, self._mode = CallReader(ends_with_arguments=True), "call"
            self._call.push(f'{{"name":"{found.group(1)}","arguments":')
            return True
        waits = (end or "").startswith(self._buffer) or (named is not None and len(self._buffer) < 256)
        if not waits:
            self._back_to_text("")
        return not waits

    def _back_to_text(self, held: str) -> None:
        """What looked like a call is none: it is text, with what was skipped before it if no call came at all."""
        lead = "" if self._calls else self._skipped
        self._buffer, self._mode, self._skipped = lead + held + self._buffer, "said", ""

    def _read_call(self, pieces: list[Piece]) -> bool:
        call = self._call
        self._buffer = self._buffer[call.push(self._buffer) :]
        if call.broken:
            self._back_to_text(call.held)
            return True
        if call.name is not None:
            new = call.take_arguments()
            self._has_arguments |= bool(new)
            if call.done and not self._has_arguments:
                new = "{}"
            if not self._announced:
                pieces.append(CallPiece(self._calls, call.name, new))
                self._announced = True
            elif new:
                pieces.append(CallPiece(self._calls, None, new))
        if call.done:
            self._calls, self._announced, self._has_arguments = self._calls + 1, False, False
            self._mode = "between"
        return call.done


@dataclass(slots=True)
class OneCall:
    """The whole answer is the arguments of a function whose name is known."""

    name: str
    _begun: bool = False

    def push(self, text: str) -> list[Piece]:
        if not text:
            return []
        name, self._begun = None if self._begun else self.name, True
        return [CallPiece(0, name, text)]

    def finish(self) -> list[Piece]:
        return []


def possible_start(text: str, mark: str) -> int:
    """Where the longest end of `text` starts that begins the mark; len(text) if none does."""
    longest = min(len(text), len(mark) - 1)
    return next((len(text) - n for n in range(longest, 0, -1) if mark.startswith(text[-n:])), len(text))


def guess_notation(template: str) -> str | None:
    """By what the chat template writes."""
    marks = {"<tool_call>": "hermes", "[TOOL_CALLS]": "mistral", "<|python_tag|>": "llama3_json"}
    named = '"parameters": ' in template and "<|start_header_id|>" in template
    return next((name for mark, name in marks.items() if mark in template), "llama3_json" if named else None)
