"""Stop strings are cut exactly, however the text is split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.runtime.stops import StopMatcher


def run(stops: tuple[str, ...], pieces: list[str], *, include: bool = False) -> tuple[str, str | None]:
    matcher = StopMatcher(stops, include=include)
    text = ""
    for piece in pieces:
        out, stop = matcher.push(piece)
        text += out
        if stop is not None:
            return text, stop
    return text + matcher.flush(), None


def first_complete(stops: tuple[str, ...], text: str, *, include: bool) -> tuple[str, str | None]:
    """The rule itself: read character by character until some stop string is complete; the longest wins."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3).map(tuple),
    pieces=st.lists(st.text("abc", max_size=4), max_size=8),
    include=st.booleans(),
)
def test_the_cut_does_not_depend_on_the_pieces(stops: tuple[str, ...], pieces: list[str], include: bool) -> None:
    assert run(stops, pieces, include=include) == first_complete(stops, "".join(pieces), include=include)


def test_a_possible_beginning_is_held_back_and_let_go() -> None:
    matcher = StopMatcher(("END",), include=False)
    assert [matcher.push(piece).text for piece in ("a E", "N", "E", "x")] == ["a ", "", "EN", "Ex"]
    assert matcher.flush() == ""


def test_without_stops_nothing_is_held() -> None:
    assert StopMatcher((), include=False).push("text") == ("text", None)


@pytest.mark.parametrize(("pieces", "expected"), [(["xx", "END", "yEND"], "xxENDy"), (["EN", "D", "END"], "END")])
def test_stops_completed_too_early_do_not_count(pieces: list[str], expected: str) -> None:
    matcher = StopMatcher(("END",), include=False)
    text = ""
    for number, piece in enumerate(pieces):
        out, stop = matcher.push(piece, may_stop=number >= 2)
        text += out
    assert (text, stop) == (expected, "END")
