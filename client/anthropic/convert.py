"""Anthropic's requests to OpenAI's and answers to Anthropic's replies: pure functions, no I/O."""

from __future__ import annotations

from typing import Any

import msgspec

from ingot.client.anthropic.schema import (
    CountTokensRequest,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
)
from ingot.client.dialect import chat_request, object_of
from ingot.client.openai.answers import Delta, joined
from ingot.client.openai.replies import Outcome
from ingot.client.openai.schema_chat import ChatRequest
from ingot.errors import RequestError
from ingot.runtime.request import Usage

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
Message = dict[str, Any]


def chat_of(body: CountTokensRequest) -> ChatRequest:
    """A last assistant turn is continued. Raises RequestError."""
    messages = messages_of(body)
    last = messages[-1]
    if last.get("tool_calls"):
        raise RequestError("The last turn calls a tool.", mend="Send the tool's result after it.", param="messages")
    fields: dict[str, Any] = {
        "model": body.model,
        "messages": messages,
        "tools": [tool_of(tool) for tool in body.tools or []] or None,
        "continue_final_message": last["role"] == "assistant",
    }
    if body.tool_choice is not None:
        fields["tool_choice"] = choice_of(body.tool_choice)
        fields["parallel_tool_calls"] = not body.tool_choice.disable_parallel_tool_use
    if body.thinking is not None and body.thinking.type == "disabled":
        fields["reasoning_effort"] = "none"
    if body.output_config is not None and body.output_config.format is not None:
        fields["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": body.output_config.format.schema_},
        }
    if isinstance(body, MessagesRequest):
        same = ("max_tokens", "stream", "temperature", "top_k", "top_p")
        fields |= {name: getattr(body, name) for name in same} | {"stop": body.stop_sequences or None}
    return chat_request(fields)


def messages_of(body: CountTokensRequest) -> list[Message]:
    """Turns of one role that follow each other are joined, as Anthropic does."""
    messages: list[Message] = []
    if body.system:
        messages.append({"role": "system", "content": text_of(body.system)})
    for turn in body.messages:
        for message in turn_messages(turn):
            last = messages[-1] if messages else {}
            plain = message.keys() == last.keys() == {"role", "content"}
            if plain and last["role"] == message["role"]:
                last["content"] += "\n" + message["content"]
            else:
                messages.append(message)
    return messages


def turn_messages(turn: Turn) -> list[Message]:
    """Tools' results come before what the user says besides; what an assistant thought, said and called is one message."""
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    texts = [block.text for block in turn.content if isinstance(block, TextBlock)]
    thoughts = [block.thinking for block in turn.content if isinstance(block, ThinkingBlock)]
    calls = [call_of(block) for block in turn.content if isinstance(block, ToolUseBlock)]
    results = [result_of(block) for block in turn.content if isinstance(block, ToolResultBlock)]
    if (thoughts or calls) and turn.role != "assistant":
        raise RequestError(f"A turn of the {turn.role}'s thinks or calls.", mend="Only an assistant's may.")
    if results and turn.role != "user":
        raise RequestError(f"A turn of the {turn.role}'s has a tool_result.", mend="Put it into a user's.")
    said: Message = {"role": turn.role, "content": "\n".join(texts)}
    if calls:
        said["tool_calls"] = calls
    if thoughts:
        said["reasoning_content"] = "\n".join(thoughts)
    return [*results, *([said] if texts or calls or thoughts or not results else [])]


def call_of(block: ToolUseBlock) -> dict[str, Any]:
    arguments = msgspec.json.encode(block.input).decode()
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def result_of(block: ToolResultBlock) -> Message:
    text = ("Error: " if block.is_error else "") + text_of(block.content or "")
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}


def text_of(content: str | list[TextBlock]) -> str:
    return content if isinstance(content, str) else "\n".join(block.text for block in content)


def tool_of(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    return {"type": "function", "function": function | {"strict": tool.strict}}


def choice_of(choice: ToolChoice) -> str | dict[str, Any]:
    if (choice.type == "tool") != (choice.name is not None):
        raise RequestError(
            "'tool_choice' of type tool, and of no other, has a 'name'.", mend="Name the tool.", param="tool_choice"
        )
    return CHOICES.get(choice.type) or {"type": "function", "function": {"name": choice.name}}


def message_body(request_id: str, model: str, content: list[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
    return {
        "id": request_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def whole_message(request_id: str, model: str, delta: Delta, outcome: Outcome) -> dict[str, Any]:
    usage = {} if outcome.usage is None else usage_body(outcome.usage)
    body = message_body(request_id, model, content_of(delta), usage)
    return body | stop_body(outcome.finish_reason, outcome.stop_reason, called=bool(delta.calls))


def content_of(delta: Delta) -> list[dict[str, Any]]:
    """Thoughts, text, calls; an empty text where there is nothing."""
    blocks = []
    if delta.reasoning:
        blocks.append(thinking_block(delta.reasoning))
    if delta.content or not (delta.reasoning or delta.calls):
        blocks.append({"type": "text", "text": delta.content})
    for call in joined(delta.calls):
        blocks.append(use_block(call) | {"input": object_of(call["function"]["arguments"])})
    return blocks


def thinking_block(text: str) -> dict[str, Any]:
    """Nothing needs to be proved when it comes back, so it is not signed."""
    return {"type": "thinking", "thinking": text, "signature": ""}


def use_block(call: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "tool_use",
        "id": call["id"].replace("call_", "toolu_", 1),
        "name": call["function"]["name"],
        "input": {},
    }


def stop_body(finish_reason: str | None, stop_reason: str | int | None, *, called: bool) -> dict[str, str | None]:
    if finish_reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if isinstance(stop_reason, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": stop_reason}
    return {"stop_reason": "tool_use" if called else "end_turn", "stop_sequence": None}


def usage_body(usage: Usage) -> dict[str, int]:
    """Anthropic counts the tokens read from its cache beside the input tokens, not among them."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def failure_body(status: int, message: str, code: str | None) -> dict[str, Any]:
    return {"type": "error", "error": {"type": ERROR_TYPES.get(status, "api_error"), "message": message}}
