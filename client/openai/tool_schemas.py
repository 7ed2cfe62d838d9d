"""Schemas of calls, made of the tools' parameters. Pure functions on JSON schemas; knows no notation of calls."""

from __future__ import annotations

from typing import Any

from ingot.client.openai.schema_chat import Tool

VALUES = ("const", "enum", "default", "examples")  # hold values, which look like schemas and are none


def parameters_of(tool: Tool) -> dict[str, Any]:
    return tool.function.parameters or {"type": "object", "properties": {}}


def list_of_calls(tools: list[Tool], *, several: bool) -> dict[str, Any]:
    """Each function's parameters stand under $defs, so that their own references are moved there too."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.function.name}, "arguments": {"$ref": f"#/$defs/{i}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for i, tool in enumerate(tools)
    ]
    bounds = {"minItems": 1} if several else {"minItems": 1, "maxItems": 1}
    parameters = {str(i): moved(parameters_of(tool), f"#/$defs/{i}") for i, tool in enumerate(tools)}
    return {"type": "array", "items": {"anyOf": calls}, **bounds, "$defs": parameters}


def moved(schema: Any, place: str) -> Any:
    """The schema with its references from "#" leading from `place`."""
    if isinstance(schema, list):
        return [moved(one, place) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: place + value[1:] if key == "$ref" and isinstance(value, str) and value[:1] == "#" else moved(value, place)
        for key, value in schema.items()
    }


def without_words(schema: Any) -> Any:
    """The schema without what it tells the model, which is shown the tool anyway: nothing of that can be enforced."""
    if isinstance(schema, list):
        return [without_words(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value if key in VALUES else without_words(value)
        for key, value in schema.items()
        if not (key in ("description", "title") and isinstance(value, str))
    }
