"""Anthropic's requests to ours and our chunks to Anthropic's replies: pure functions, no I/O."""

from __future__ import annotations

from typing import Any

from ingot.client.anthropic.schema import CountTokensRequest, MessagesRequest, Text
from ingot.client.openai.replies import Outcome
from ingot.runtime.params import SamplingParams
from ingot.runtime.request import GenerateRequest, Prompt, Usage

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def messages_to_ours(body: MessagesRequest, request_id: str) -> GenerateRequest:
    given = {name: getattr(body, name) for name in ("temperature", "top_p", "top_k") if getattr(body, name) is not None}
    params = SamplingParams(max_tokens=body.max_tokens, stop=tuple(body.stop_sequences or ()), **given)
    return GenerateRequest(request_id=request_id, model=body.model, prompt=prompt_of(body), params=params)


def prompt_of(body: CountTokensRequest) -> Prompt:
    """Turns of one role that follow each other are joined, as Anthropic does; a last assistant turn is continued."""
    turns = [("system", text_of(body.system))] if body.system else []
    turns += [(turn.role, text_of(turn.content)) for turn in body.messages]
    messages: list[dict[str, Any]] = []
    for role, text in turns:
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += "\n" + text
        else:
            messages.append({"role": role, "content": text})
    continues = messages[-1]["role"] == "assistant"
    return Prompt(messages=messages, add_generation_prompt=not continues, continue_final_message=continues)


def text_of(content: Text) -> str:
    return content if isinstance(content, str) else "\n".join(block.text for block in content)


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


def whole_message(request_id: str, model: str, outcome: Outcome) -> dict[str, Any]:
    usage = {} if outcome.usage is None else usage_body(outcome.usage)
    body = message_body(request_id, model, [{"type": "text", "text": outcome.text}], usage)
    return body | stop_body(outcome.finish_reason, outcome.stop_reason)


def stop_body(finish_reason: str | None, stop_reason: str | int | None) -> dict[str, str | None]:
    if finish_reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if isinstance(stop_reason, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": stop_reason}
    return {"stop_reason": "end_turn", "stop_sequence": None}


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
