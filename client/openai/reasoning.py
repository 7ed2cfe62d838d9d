"""Splits what a model thinks from what it answers, as the text comes. Knows the families' marks, no wire format."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.client.openai.tool_parsers import possible_start


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    begin: str
    end: str
    inside: bool = False  # the prompt has opened the thoughts already; an answer may open them again


MARKS = {
    "deepseek_r1": Marks(begin="<think>", end="</think>", inside=True),
    "qwen3": Marks(begin="<think>", end="</think>"),
    "granite": Marks(begin="Here is my thought process:", end="Here is my response:"),
    "mistral": Marks(begin="[THINK]", end="[/THINK]"),
}


@dataclass(slots=True)
class ReasoningSplitter:
    """Thoughts stand at the beginning of an answer, once."""

    marks: Marks
    _buffer: str = ""
    _thought: bool = False  # some thoughts are out
    _mode: str = "begin"  # begin | thoughts | between | answer

    def push(self, text: str) -> tuple[str, str]:
        """New thoughts, new answer."""
        self._buffer += text
        thoughts = ""
        if self._mode == "begin":
            self._begin()
        if self._mode == "thoughts":
            thoughts = self._think()
        if self._mode == "between":
            self._buffer = self._buffer.lstrip()
            self._mode = "answer" if self._buffer else "between"
        if self._mode != "answer":
            return thoughts, ""
        answer, self._buffer = self._buffer, ""
        return thoughts, answer

    def finish(self) -> tuple[str, str]:
        rest, self._buffer = self._buffer, ""
        return (rest.rstrip(), "") if self._mode == "thoughts" else ("", rest)

    def _begin(self) -> None:
        head, begin = self._buffer.lstrip(), self.marks.begin
        if begin.startswith(head[: len(begin)]) and len(head) < len(begin):
            return
        if head.startswith(begin):
            self._buffer, self._mode = head.removeprefix(begin), "thoughts"
        else:
            self._mode = "thoughts" if self.marks.inside else "answer"

    def _think(self) -> str:
        if not self._thought:
            self._buffer = self._buffer.lstrip()
        place = self._buffer.find(self.marks.end)
        if place >= 0:
            said = self._buffer[:place].rstrip()
            self._buffer, self._mode = self._buffer[place + len(self.marks.end) :], "between"
            return said
        keep = len(self._buffer[: possible_start(self._buffer, self.marks.end)].rstrip())
        said, self._buffer = self._buffer[:keep], self._buffer[keep:]
        self._thought = self._thought or bool(said)
        return said
