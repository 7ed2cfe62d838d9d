"""Reads one tool call, a JSON object, as it is being written: its name as soon as it is there, its arguments as they come."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

MAX_HELD_CHARS = 10 << 20  # of one call, before its name is known
ARGUMENTS = ("arguments", "parameters")
SPACE = " \t\r\n"


@dataclass(slots=True)
class CallReader:
    """`push` takes characters up to the object's end. Arguments are handed out as written, once the name is known."""

    ends_with_arguments: bool = False  # no brace of the call's own follows them
    name: str | None = None
    done: bool = False
    broken: bool = False  # this is no call: `held` is all that was read
    held: str = ""  # everything read while the name is unknown
    _arguments: str = ""  # not yet handed out
    _quoted: bool = False  # the arguments are a string
    _depth: int = 0
    _in_string: bool = False
    _escaped: bool = False
    _key: str | None = None  # of the member being read, at depth 1
    _token: list[str] = field(default_factory=list)  # the key or value being collected
    _spaces: str = ""  # may be within the arguments or behind them

    def push(self, text: str) -> int:
        """How many characters it took."""
        for taken, letter in enumerate(text, 1):
            if self.name is None:
                self.held += letter
            self._read(letter)
            if len(self.held) > MAX_HELD_CHARS:
                self.broken = True
            if self.done or self.broken:
                return taken
        return len(text)

    def take_arguments(self) -> str:
        """What is new of them; nothing before the name is known."""
        if self.name is None or self._quoted:  # a string that holds JSON is handed out at its end
            return ""
        new, self._arguments = self._arguments, ""
        return new

    def _read(self, letter: str) -> None:
        if self._in_string:
            self._collect(letter)
            if self._escaped:
                self._escaped = False
            elif letter == "\\":
                self._escaped = True
            elif letter == '"':
                self._in_string = False
            return
        if letter in "]}":
            self._depth -= 1
        if self._depth == 0 and letter != "{":
            self._end_member()
            self.done = True
            self.broken = self.broken or self.name is None
        elif self._depth == 1 and letter == ":" and self._key is None:
            self._key = unquoted("".join(self._token)) or ""
            self._token = []
        elif self._depth == 1 and letter == ",":
            self._end_member()
        elif self._depth > 0:
            self._collect(letter)
        if letter in "[{":
            self._depth += 1
        self._in_string = letter == '"'
        if self.ends_with_arguments and self._depth == 1 and letter == "}":
            self.done = True

    def _collect(self, letter: str) -> None:
        if self._key not in ARGUMENTS:
            if letter not in SPACE or self._in_string:
                self._token.append(letter)
        elif letter in SPACE and not self._in_string:
            self._spaces += letter if self._arguments or self._depth > 1 else ""
        else:
            self._quoted |= letter == '"' and self._depth == 1 and not self._arguments
            self._arguments += self._spaces + letter
            self._spaces = ""

    def _end_member(self) -> None:
        if self._key == "name":
            self.name = unquoted("".join(self._token))
            self.broken = not self.name
            self.held = "" if self.name else self.held
        elif self._key in ARGUMENTS and self._quoted:
            self._arguments, self._quoted = unquoted(self._arguments) or "", False
        self._key, self._token, self._spaces = None, [], ""


def unquoted(text: str) -> str | None:
    try:
        return msgspec.json.decode(text, type=str)
    except msgspec.DecodeError:
        return None
