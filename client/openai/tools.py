"""tools and tool_choice: what the template is shown, what grammar a forced call follows, how the answer is read."""

from __future__ import annotations

from functools import partial
from typing import Any

from ingot.client.backend import ModelCard
from ingot.client.openai.answers import Reading
from ingot.client.openai.schema_chat import ChatRequest, Tool
from ingot.client.openai.structured import checked, grammar_of, json_schema
from ingot.client.openai.thinking import parser_of
from ingot.client.openai.tool_parsers import LISTED, NOTATIONS, MarkedCalls, OneCall
from ingot.errors import RequestError
from ingot.runtime.params import Grammar

MAX_TOOLS = 128


def forced_call(body: ChatRequest) -> Grammar | None:
    """The grammar of a call that must be made: a list of calls, or the arguments alone of a named function. As vLLM does."""
    check_choice(body)
    if not body.tools or body.tool_choice in (None, "none", "auto"):
        return None
    if body.tool_choice == "required":
        grammar = json_schema(list_of_calls(body.tools, several=body.parallel_tool_calls is not False), "tools")
    else:
        grammar = json_schema(parameters_of(named_tool(body)), "tools")
    if grammar is not None:
        checked(grammar, "tools")
    return grammar


def check_choice(body: ChatRequest) -> None:
    choice, names = body.tool_choice, [tool.function.name for tool in body.tools or []]
    if choice not in (None, "none", "auto") and not names:
        raise RequestError("'tool_choice' is given without 'tools'.", mend="Send the tools.", param="tool_choice")
    if len(names) > MAX_TOOLS:
        raise RequestError(f"There are {len(names)} tools.", mend=f"Send at most {MAX_TOOLS}.", param="tools")
    if len(set(names)) < len(names):
        raise RequestError("Two tools have the same name.", mend="Name each differently.", param="tools")


def named_tool(body: ChatRequest) -> Tool:
    choice = body.tool_choice
    if choice is None or isinstance(choice, str):
        raise RequestError("'tool_choice' names no function.", mend="Name one.", param="tool_choice")
    for tool in body.tools or []:
        if tool.function.name == choice.function.name:
            return tool
    raise RequestError(
        f"No tool is called {choice.function.name[:80]!r}.", mend="Name one of the tools.", param="tool_choice"
    )


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


def reading_of(body: ChatRequest, card: ModelCard) -> Reading:
    """Raises RequestError where calls are asked for that this server could not read."""
    constrained = grammar_of(body) is not None
    reasoning = None if constrained else parser_of(card, body.reasoning_effort)
    if not body.tools or body.tool_choice == "none":
        return Reading(reasoning=reasoning)
    if body.tool_choice == "required":
        return Reading(tools=partial(MarkedCalls, LISTED))
    if body.tool_choice not in (None, "auto"):
        return Reading(tools=partial(OneCall, named_tool(body).function.name), named=True)
    if constrained:
        return Reading()
    if card.tool_parser is None:
        raise RequestError(
            "This server does not know how its model writes tool calls.",
            mend='Start it with --tool-call-parser, or set tool_choice to "required", to a function, or to "none".',
            param="tools",
        )
    return Reading(
        tools=partial(MarkedCalls, NOTATIONS[card.tool_parser]),
        reasoning=reasoning,
        several=body.parallel_tool_calls is not False,
    )
