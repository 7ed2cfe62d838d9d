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
SPACE = {"type": "regex", "pattern": r"[ \t\r\n]*"}
AFTER_CALL = {"type": "regex", "pattern": r"[ \t\r\n,;]*"}
MAX_WHITESPACE = 1  # characters between two parts of a call: with more, small models write little else


def tag_of(tools: list[Tool], notation: Notation, *, several: bool, thoughts: Marks | None) -> Grammar:
    answer = answer_in(notation, tools, several=several)
    if thoughts is not None:
        answer = after_thoughts(answer, thoughts)
    return Grammar(
        kind="structural_tag", text=msgspec.json.encode({"type": "structural_tag", "format": answer}).decode()
    )


def answer_in(notation: Notation, tools: list[Tool], *, several: bool) -> Format:
    """With an end mark text goes on behind a call; without one calls go on to the answer's end, as they are read."""
    start, end = notation.start, notation.end
    calls: Format = fitting(calls_schema(tools, several=several))
    if end is not None:
        tag = {"type": "tag", "begin": start, "content": sequence(SPACE, calls, SPACE), "end": end}
        return {"type": "triggered_tags", "triggers": [start], "tags": [tag], "stop_after_first": not several}
    if notation.named is not None:
        calls = either(calls, *(named_call(tool) for tool in tools))
    run = sequence(optional(constant(start)), SPACE, calls, AFTER_CALL)
    run = {"type": "plus", "content": run} if several else run
    text = until(start, run)
    return bare_or(run, text, start) if notation.bare else text


def bare_or(run: Format, text: Format, start: str) -> Format:
    """An answer is calls from its beginning, or its first character says that it is text. The mark's own first character
    says neither, so one that stands first is followed by the rest of the mark or by what the mark does not go on with."""
    spaces = "".join(f"\\u{ord(space):04x}" for space in SPACES)
    first, second = start[0], start[1]
    opening = {"type": "regex", "pattern": rf"{first}+[^{second}{first}]|[^{spaces}{{\[{first}]"}
    only = {"type": "regex", "pattern": f"{first}+"}
    return sequence({"type": "regex", "pattern": f"[{spaces}]*"}, optional(either(run, sequence(opening, text), only)))


def after_thoughts(answer: Format, marks: Marks) -> Format:
    thoughts = until(marks.end, answer)
    return thoughts if marks.inside else either(sequence(SPACE, constant(marks.begin), thoughts), answer)


def calls_schema(tools: list[Tool], *, several: bool) -> dict[str, Any]:
    """Of a call or a list of calls. Each function's parameters stand under $defs, once for all spellings of its call."""
    call = {"anyOf": [{"anyOf": spellings(tool, f"#/$defs/{i}")} for i, tool in enumerate(tools)]}
    listed = {"type": "array", "items": {"$ref": "#/$defs/call"}, "minItems": 1} | ({} if several else {"maxItems": 1})
    parameters = {str(i): moved(arguments_of(tool), f"#/$defs/{i}") for i, tool in enumerate(tools)}
    return {"anyOf": [{"$ref": "#/$defs/call"}, listed], "$defs": {"call": call} | parameters}


def spellings(tool: Tool, place: str) -> list[dict[str, Any]]:
    """Name first or arguments first, under either of their names; a tool that is not strict may be called without any."""
    name = {"const": tool.function.name}
    found = []
    for key in ARGUMENTS:
        needed = ["name", key] if tool.function.strict else ["name"]
        found += [
            spelling({"type": {"const": "function"}, "name": name, key: {"$ref": place}}, needed),
            spelling({key: {"$ref": place}, "name": name}, ["name", key]),
        ]
    return found


def spelling(properties: dict[str, Any], needed: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


def named_call(tool: Tool) -> Format:
    return sequence(constant(tool.function.name), optional(constant("[ARGS]")), fitting(arguments_of(tool)))


def arguments_of(tool: Tool) -> dict[str, Any]:
    return without_words(parameters_of(tool)) if tool.function.strict else ANY_OBJECT


def until(mark: str, then: Format) -> Format:
    """Any text; where the mark comes in it, `then` follows, up to the end."""
    return {"type": "dispatch", "rules": [[mark, then]], "loop": False}


def fitting(schema: dict[str, Any]) -> Format:
    return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": MAX_WHITESPACE}


def constant(text: str) -> Format:
    return {"type": "const_string", "value": text}


def optional(content: Format) -> Format:
    return {"type": "optional", "content": content}


def either(*elements: Format) -> Format:
    return {"type": "or", "elements": elements}


def sequence(*elements: Format) -> Format:
    return {"type": "sequence", "elements": elements}
