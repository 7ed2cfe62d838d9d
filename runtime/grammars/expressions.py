"""What of a regular expression xgrammar would read otherwise than everybody else: anchors within it and letters after a
backslash. It drops the first and takes the second for themselves. No torch and no xgrammar."""

from __future__ import annotations

import re
from dataclasses import dataclass

LETTERS = frozenset(
    "dDwWsSnrtfv0xubBpPk"
)  # known after a backslash; of those, what xgrammar cannot do it refuses itself
TOKENS = re.compile(
    r"""(?P<escape>\\.)
    | (?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])
    | (?P<look>\(\?<?[=!])
    | (?P<open>\((?:\?(?::|<\w+>))?)
    | (?P<close>\))
    | (?P<repeat>[*+?]|\{[\d,]*\})
    | (?P<other>.)""",
    re.DOTALL | re.VERBOSE,
)


@dataclass(slots=True)
class Group:
    begins: bool  # whether nothing of the text can stand before it
    ended: bool = False  # whether one of its branches so far ends with a $
    anchored: bool = False


def misread(expression: str) -> str | None:
    """What is wrong, for a person: "has ..."; None where every token means what it does elsewhere. Balance is not looked at."""
    groups = [Group(True)]
    first, ended = True, False  # whether nothing stands before the token in its branch; whether a $ does
    closed: Group | None = None
    for token in TOKENS.finditer(expression):
        kind, text, group = token.lastgroup, token[0], groups[-1]
        if kind == "look":
            return "looks ahead or behind"
        if kind == "escape" and text[1].isalpha() and text[1] not in LETTERS:
            return f"has {text}, which is not known here"
        if text == "|":
            group.ended, first, ended = group.ended or ended, True, False
        elif kind == "close" and len(groups) > 1:
            group.ended |= ended
            closed, first, ended = groups.pop(), False, group.ended
            groups[-1].anchored |= group.anchored
            continue
        elif text == "^":
            group.anchored = True
            if not (first and group.begins):
                return "has a ^ that is not at its beginning"
        elif ended or (kind == "repeat" and closed is not None and closed.anchored):
            return "has an anchor within it"
        elif kind == "open":
            groups.append(Group(first and group.begins))
            first = True
        else:
            first, ended = False, text == "$"
            group.anchored |= ended
        closed = None
    return None
