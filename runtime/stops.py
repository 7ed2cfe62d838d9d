"""Finds stop strings in text that comes in pieces, whatever the pieces. Knows text only."""

from __future__ import annotations

from typing import NamedTuple


class Found(NamedTuple):
    text: str  # safe to show now
    stop: str | None  # the stop string that ended the text


class StopMatcher:
    """Holds back the end of the text for as long as it may turn out to be the beginning of a stop string.

    The stop string that is complete first wins, and the longest where several are; so the cut does not depend on how
    the text was split into tokens.
    """

    def __init__(self, stops: tuple[str, ...], *, include: bool) -> None:
        """`include`: the stop string stays in the text."""
        self._stops = stops
        self._include = include
        self._held = ""

    def push(self, piece: str, *, may_stop: bool = True) -> Found:
        """Takes the next piece. With may_stop False, stop strings that it completes do not count."""
        if not self._stops:
            return Found(piece, None)
        old = len(self._held)
        text = self._held + piece
        if may_stop:
            ends = [
                (text.find(stop, max(0, old - len(stop) + 1)) + len(stop), -len(stop), stop) for stop in self._stops
            ]
            found = [(end, length, stop) for end, length, stop in ends if end >= len(stop)]
            if found:
                end, _, stop = min(found)
                self._held = ""
                return Found(text[: end if self._include else end - len(stop)], stop)
        keep = self._possible_stop(text)
        self._held = text[keep:]
        return Found(text[:keep], None)

    def flush(self) -> str:
        """What was held back, once the text has ended otherwise."""
        held, self._held = self._held, ""
        return held

    def _possible_stop(self, text: str) -> int:
        """Where the longest end of `text` starts that begins a stop string; len(text) if none does."""
        starts = [len(text)]
        for stop in self._stops:
            start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
            while start >= 0:
                if stop.startswith(text[start:]):
                    starts.append(start)
                    break
                start = text.find(stop[0], start + 1)
        return min(starts)
