"""Reads one tool call, a JSON object, as it is being written: its name as soon as it is there, its arguments as they come."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import msgspec

MAX_HELD_CHARS = 10 << 20  # of one call, before its name is known
ARGUMENTS = ("arguments", "parameters")
SPACE = " \t\r\n"
INSIDE = re.compile(r'[^"\\]+')  # of a string, up to its next sign
CONTROL = re.compile(r"[\x00-\x1f]")  # must be escaped in a string, which models and grammars forget


@dataclass(slots=True)
class CallReader:
    """`push` takes characters up to the object's end. Arguments are handed out as written, once the name is known."""

    ends_with_arguments: bool = False  # no brace of the call's own follows them
    name: str | None = None
    done: bool = False
    broken: bool = False  # this is no call: `held` is all that was read
    _held: list[str] = field(default_factory=list)  # everything read while the name is unknown
    _held_chars: int = 0
    _arguments: list[str] = field(default_factory=list)  # not yet handed out
    _quoted: bool = False  # the arguments are a string
    _begun: bool = False  # the arguments are
    _depth: int = 0
    _in_string: bool = False
    _escaped: bool = False
    _key: str | None = None  # of the member being read, at depth 1
    _token: list[str] = field(default_factory=list)  # the key or value being collected
    _spaces: str = ""  # may be within the arguments or behind them

    @property
    def held(self) -> str:
        return "".join(self._held)

    def push(self, text: str) -> int:
        """How many characters it took."""
        place = 0
        while place < len(text) and not (self.done or self.broken):
            end = place + 1
            if self._in_string and not self._escaped and (run := INSIDE.match(text, place)):
                end = run.end()
            part = text[place:end]
            if self.name is None:
                self._held.append(part)
                self._held_chars += len(part)
            self._read(part)
            self.broken = self.broken or self._held_chars > MAX_HELD_CHARS
            place = end
        return place

    def take_arguments(self) -> str:
        """What is new of them; nothing before the name is known."""
        if self.name is None or self._quoted:  # a string that holds JSON is handed out at its end
            return ""
        new, self._arguments = "".join(self._arguments), []
        return new

    def _read(self, part: str) -> None:
        """One character, or several within a string."""
        if self._in_string:
            self._collect(CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", part))
            self._in_string = self._escaped or part != '"'
            self._escaped = not self._escaped and part == "\\"
            return
        if part in "]}":
            self._depth -= 1
        if self._depth == 0 and part != "{":
            self._end_member()
            self.done = True
            self.broken = self.name is None
        elif self._depth == 1 and part == ":" and self._key is None:
            self._key = unquoted("".join(self._token)) or ""
            self._token = []
        elif self._depth == 1 and part == ",":
            self._end_member()
        elif self._depth > 0:
            self._collect(part)
        if part in "[{":
            self._depth += 1
        self._in_string = part == '"'
        self.done = self.done or (self.ends_with_arguments and self._depth == 1 and part == "}")

    def _collect(self, part: str) -> None:
        is_space = part in SPACE and not self._in_string
        if self._key not in ARGUMENTS:
            if not is_space:
                self._token.append(part)
        elif is_space:
            self._spaces += part if self._begun else ""
        else:
            self._quoted |= part == '"' and not self._begun
            self._begun = True
            self._arguments += [self._spaces, part] if self._spaces else [part]
            self._spaces = ""

    def _end_member(self) -> None:
        if self._key == "name":
            self.name = unquoted("".join(self._token))
            self.broken = not self.name
            if self.name:
                self._held, self._held_chars = [], 0
        elif self._key in ARGUMENTS and self._quoted:
            self._arguments, self._quoted = [unquoted("".join(self._arguments)) or ""], False
        self._key, self._token, self._spaces = None, [], ""


def unquoted(text: str) -> str | None:
    try:
        return msgspec.json.decode(text, type=str)
    except msgspec.DecodeError:
        return None
