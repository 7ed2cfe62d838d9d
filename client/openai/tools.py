"""tools and tool_choice: what grammar a call follows, and how the answer is read."""

from __future__ import annotations

from functools import partial

from ingot.client.backend import ModelCard
from ingot.client.openai.answers import Reading
from ingot.client.openai.reasoning import MARKS
from ingot.client.openai.schema_chat import ChatRequest, Tool
from ingot.client.openai.structured import checked, grammar_of, json_schema
from ingot.client.openai.thinking import parser_of
from ingot.client.openai.tool_parsers import LISTED, NOTATIONS, MarkedCalls, OneCall
from ingot.client.openai.tool_schemas import list_of_calls, parameters_of
from ingot.client.openai.tool_tags import tag_of
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


def strict_calls(body: ChatRequest, card: ModelCard) -> Grammar | None:
    """What an answer without another format follows: calls may come in it, and the arguments of some must fit."""
    tools = body.tools or []
    if body.tool_choice not in (None, "auto") or not any(tool.function.strict for tool in tools):
        return None
    if card.tool_parser is None:  # refused by reading_of
        return None
    reasoning = parser_of(card, body.reasoning_effort)
    grammar = tag_of(
        tools,
        NOTATIONS[card.tool_parser],
        several=body.parallel_tool_calls is not False,
        thoughts=None if reasoning is None else MARKS[reasoning],
    )
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
