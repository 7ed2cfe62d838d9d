"""The items of /v1/responses: those of an input as a chat's messages, an answer as items. Pure functions, no I/O."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from ingot.client.openai.answers import Delta, joined
from ingot.client.openai.schema_responses import (
    FunctionCall,
    FunctionCallOutput,
    InputMessage,
    Item,
    Reasoning,
    Text,
)

Turn = dict[str, Any]


def turns_of(asked: str | Sequence[Item]) -> list[Turn]:
    """What an assistant thought, said and called is one turn, however many items it is."""
    if isinstance(asked, str):
        return [{"role": "user", "content": asked}]
    turns: list[Turn] = []
    for item in asked:
        if isinstance(item, FunctionCallOutput):
            turns.append({"role": "tool", "tool_call_id": item.call_id, "content": text_of(item.output)})
        elif isinstance(item, InputMessage) and item.role != "assistant":
            turns.append({"role": item.role, "content": text_of(item.content)})
        else:
            add_to_assistant(turns, item)
    return turns


def add_to_assistant(turns: list[Turn], item: Reasoning | InputMessage | FunctionCall) -> None:
    last = turns[-1] if turns and turns[-1]["role"] == "assistant" else None
    match item:
        case Reasoning():
            parts = item.content or item.summary
            turns.append(
                {"role": "assistant", "content": "", "reasoning_content": "\n".join(part.text for part in parts)}
            )
        case FunctionCall():
            if last is None:
                turns.append(last := {"role": "assistant", "content": ""})
            call = {"name": item.name, "arguments": item.arguments}
            last.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": call})
        case InputMessage():
            if last is not None and not last["content"] and "tool_calls" not in last:
                last["content"] = text_of(item.content)
            else:
                turns.append({"role": "assistant", "content": text_of(item.content)})


def text_of(content: Text) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def turn_of_answer(output: list[dict[str, Any]]) -> Turn:
    """An answer's items as the turn that a next answer goes on from: a call that was cut short was none."""
    turn: Turn = {"role": "assistant", "content": ""}
    for item in output:
        match item["type"]:
            case "reasoning":
                turn["reasoning_content"] = item["content"][0]["text"]
            case "message":
                turn["content"] += item["content"][0]["text"]
            case "function_call" if item["status"] == "completed":
                call = {"name": item["name"], "arguments": item["arguments"] or "{}"}
                turn.setdefault("tool_calls", []).append({"id": item["call_id"], "type": "function", "function": call})
    return turn


def output_of(delta: Delta, *, status: str) -> list[dict[str, Any]]:
    """Thoughts, message, calls; a message without words where there is nothing. The last item is of the answer's status."""
    items = []
    if delta.reasoning:
        items.append(filled(reasoning_item(), delta.reasoning))
    if delta.content or not (delta.reasoning or delta.calls):
        items.append(filled(message_item(), delta.content))
    for call in joined(delta.calls):
        items.append(filled(call_item(call), call["function"]["arguments"]))
    items[-1]["status"] = status
    return items


def reasoning_item() -> dict[str, Any]:
    return {"id": new_id("rs"), "type": "reasoning", "summary": [], "status": "in_progress"}


def message_item() -> dict[str, Any]:
    return {"id": new_id("msg"), "type": "message", "role": "assistant", "status": "in_progress", "content": []}


def call_item(call: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": new_id("fc"),
        "type": "function_call",
        "call_id": call["id"],
        "name": call["function"]["name"],
        "arguments": "",
        "status": "in_progress",
    }


def filled(item: dict[str, Any], text: str) -> dict[str, Any]:
    """The item at its end."""
    if item["type"] == "function_call":
        return item | {"arguments": text, "status": "completed"}
    return item | {"content": [part_of(item, text)], "status": "completed"}


def part_of(item: dict[str, Any], text: str) -> dict[str, Any]:
    if item["type"] == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"
