"""Structural tags: xgrammar's JSON of a text that is free but for some parts. Finds the formats in one. No torch and no xgrammar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

FORMATS = frozenset(
    ("any_text", "const_string", "dispatch", "json_schema", "optional", "or", "plus", "regex", "sequence", "structural_tag", "tag",
     "triggered_tags")
)  # fmt: skip


def objects_of_tag(tag: Any) -> Iterator[dict[str, Any]]:
    """The tag and all formats in it, at any depth; schemas are not entered. One that is no object stands as an empty one."""
    left = [tag if isinstance(tag, dict) else {}]
    while left:
        place = left.pop()
        yield place
        if place.get("type") != "json_schema":
            left += formats_in(list(place.values()))


def formats_in(values: list[Any]) -> Iterator[dict[str, Any]]:
    """The objects in a list of lists, whatever they are."""
    while values:
        value = values.pop()
        if isinstance(value, list):
            values += value
        elif isinstance(value, dict):
            yield value


def parts_of_tag(tag: Any) -> Iterator[Any]:
    """Its schemas. In place of one that defines a `call`, the other definitions there, each of which stands for itself."""
    for place in objects_of_tag(tag):
        if place.get("type") != "json_schema":
            continue
        schema = place["json_schema"]
        defined = schema.get("$defs", {}) if isinstance(schema, dict) else {}
        if "call" not in defined:
            yield schema
            continue
        for name, one in defined.items():
            if name != "call":
                yield {"$ref": f"#/$defs/{name}", "$defs": {name: one}}
