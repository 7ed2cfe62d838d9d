"""The structural tag of strict tools: free text, and calls in a family's notation whose arguments fit. What MarkedCalls reads as
a call is one here, and what ReasoningSplitter reads as thoughts is free. Pure functions; xgrammar's format as plain data."""

from __future__ import annotations

from typing import Any

import msgspec

from ingot.client.openai.json_calls import ARGUMENTS
from ingot.client.openai.reasoning import Marks
from ingot.client.openai.schema_chat import Tool
from ingot.client.openai.tool_parsers import Notation
from ingot.client.openai.tool_schemas import moved, parameters_of, without_words
from ingot.runtime.params import Grammar

Format = dict[str, Any]

ANY_OBJECT = {"type": "object", "additionalProperties": True}  # a reference to one needs to be told
SPACES = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())  # what str.strip() takes away
MAX_WHITESPACE = 1  # characters between two parts of a call: with more, small models write little else


def tag_of(tools: list[Tool], notation: Notation, *, several: bool, thoughts: Marks | None) -> Grammar:
    answer = answer_in(notation, tools, several=several)
    if thoughts is not None and thoughts.inside:
        answer = until(thoughts.end, answer)
    elif thoughts is not None:
        opened = sequence(expression(any_of(SPACES) + "*"), constant(thoughts.begin))
        thought = {"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": thoughts.end}
        endless = sequence(opened, {"type": "any_text", "excludes": [thoughts.end]})
        if notation.bare:
            without = answer_in(notation, tools, several=several, never_first=thoughts.begin)
            answer = either(sequence(opened, thought, answer), without, endless)
        else:  # such an answer may begin with what begins thoughts: it is one copy of the schemas less
            answer = either(sequence(optional(sequence(opened, thought)), answer), endless)
    text = msgspec.json.encode({"type": "structural_tag", "format": answer}).decode()
    return Grammar(kind="structural_tag", text=text)


def answer_in(notation: Notation, tools: list[Tool], *, several: bool, never_first: str = "") -> Format:
    """With an end mark text goes on behind a call; without one calls go on to the answer's end, as they are read."""
    start, end = notation.start, notation.end
    calls: Format = fitting(calls_schema(tools, notation, several=several))
    if end is not None:
        tag = {"type": "tag", "begin": start, "content": sequence(SPACE, calls, SPACE), "end": end}
        return {"type": "triggered_tags", "triggers": [start], "tags": [tag], "stop_after_first": not several}
    if notation.named is not None:
        calls = either(calls, *(named_call(tool) for tool in tools))
    run = sequence(optional(constant(start)), SPACE, calls, AFTER_CALL)
    run = {"type": "plus", "content": run} if several else run
    text = until(start, run)
    return calls_or_text(run, text, start, never_first) if notation.bare else text


def calls_or_text(run: Format, text: Format, start: str, never_first: str) -> Format:
    """What begins with a bracket is calls. Text begins otherwise: with neither mark, but maybe with a part of one. Of texts
    that could be said only those are lost that go on like the mark for calls right behind such a part, and are none."""
    marks = [start] + ([never_first] if never_first and never_first[0] not in "{[" else [])
    parts = sorted({mark[:length] for mark in marks for length in range(1, len(mark))})
    again = any_of(start[0]) + "+"  # the mark for calls may begin behind the part of one
    openings = [expression(none_of(SPACES + "{[" + "".join(mark[0] for mark in marks)))]
    for part in parts:
        goes_on = "".join(mark[len(part)] for mark in marks if mark.startswith(part) and mark != part)
        other = either(expression(none_of(goes_on + start[0])), expression(again + none_of(start[:2])))
        openings.append(sequence(constant(part), other))
    short = either(*(sequence(constant(part), expression(any_of(start[0]) + "*")) for part in parts))
    return sequence(expression(any_of(SPACES) + "*"), optional(either(run, sequence(either(*openings), text), short)))


def calls_schema(tools: list[Tool], notation: Notation, *, several: bool) -> dict[str, Any]:
    """Of a call or a list of calls. Each function's parameters stand under $defs, once for all spellings of its call."""
    call = {"anyOf": [{"anyOf": spellings(tool, f"#/$defs/{i}", notation)} for i, tool in enumerate(tools)]}
    listed = {"type": "array", "items": {"$ref": "#/$defs/call"}, "minItems": 1} | ({} if several else {"maxItems": 1})
    parameters = {str(i): moved(arguments_of(tool), f"#/$defs/{i}") for i, tool in enumerate(tools)}
    return {"anyOf": [{"$ref": "#/$defs/call"}, listed], "$defs": {"call": call} | parameters}


def spellings(tool: Tool, place: str, notation: Notation) -> list[dict[str, Any]]:
    """Without a type, and where the tool is not strict without arguments, a call is one too."""
    known = {"type": {"const": "function"}, "name": {"const": tool.function.name}}
    known |= {key: {"$ref": place} for key in ARGUMENTS}
    optional = {"type"} if tool.function.strict else {"type", *ARGUMENTS}
    return [
        {
            "type": "object",
            "properties": {name: known[name] for name in members},
            "required": [name for name in members if name not in optional],
            "additionalProperties": False,
        }
        for members in notation.members
    ]


def named_call(tool: Tool) -> Format:
    return sequence(constant(tool.function.name), optional(constant("[ARGS]")), fitting(arguments_of(tool)))


def arguments_of(tool: Tool) -> dict[str, Any]:
    return without_words(parameters_of(tool)) if tool.function.strict else ANY_OBJECT


def any_of(characters: str) -> str:
    return "[" + "".join(f"\\u{ord(one):04x}" for one in characters) + "]"


def none_of(characters: str) -> str:
    return any_of(characters).replace("[", "[^", 1)


def until(mark: str, then: Format) -> Format:
    """Any text; where the mark comes in it, `then` follows, up to the end."""
    return {"type": "dispatch", "rules": [[mark, then]], "loop": False}


def fitting(schema: dict[str, Any]) -> Format:
    return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": MAX_WHITESPACE}


def expression(pattern: str) -> Format:
    return {"type": "regex", "pattern": pattern}


SPACE = expression(r"[ \t\r\n]*")
AFTER_CALL = expression(r"[ \t\r\n,;]*")


def constant(text: str) -> Format:
    return {"type": "const_string", "value": text}


def optional(content: Format) -> Format:
    return {"type": "optional", "content": content}


def either(*elements: Format) -> Format:
    return {"type": "or", "elements": elements}


def sequence(*elements: Format) -> Format:
    return {"type": "sequence", "elements": elements}
