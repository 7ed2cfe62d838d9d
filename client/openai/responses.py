"""One answer of /v1/responses: what is asked of the chat, and the body at every point of its life. No I/O."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from ingot.client.backend import ModelCard
from ingot.client.dialect import chat_request, ended_early
from ingot.client.openai.errors import describe
from ingot.client.openai.replies import Outcome
from ingot.client.openai.responses_items import Turn, new_id, turn_of_answer
from ingot.client.openai.schema_chat import ChatRequest
from ingot.client.openai.schema_responses import ResponsesRequest, TextFormat
from ingot.client.openai.thinking import thinking_args
from ingot.errors import RequestError


def check_ask(ask: ResponsesRequest) -> None:
    """Raises RequestError where fields contradict each other."""
    if ask.background and ask.stream:
        raise RequestError("'background' does not stream.", mend="Leave out one of them.", param="background")
    if ask.background and ask.store is False:
        raise RequestError("'background' needs 'store'.", mend="Leave store out.", param="store")
    if ask.stream_options is not None and not ask.stream:
        raise RequestError("'stream_options' without 'stream'.", mend="Set stream to true.", param="stream_options")


def chat_of(ask: ResponsesRequest, turns: list[Turn], card: ModelCard) -> ChatRequest:
    """`turns` is the conversation without instructions. Raises RequestError."""
    effort = ask.reasoning.effort if ask.reasoning else None
    thinking_args(effort, card, param="reasoning")  # refused by this route's own word
    system = [{"role": "system", "content": ask.instructions}] if ask.instructions else []
    choice = ask.tool_choice
    return chat_request(
        {
            "model": ask.model,
            "messages": system + turns,
            "max_completion_tokens": ask.max_output_tokens,
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "tools": [
                {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}
                for tool in ask.tools or []
            ]
            or None,
            "tool_choice": choice
            if choice is None or isinstance(choice, str)
            else {"type": "function", "function": {"name": choice.name}},
            "parallel_tool_calls": ask.parallel_tool_calls,
            "reasoning_effort": effort,
            "response_format": None if ask.text is None else format_of(ask.text.format),
        }
    )


def format_of(asked: TextFormat | None) -> dict[str, Any] | None:
    """OpenAI's response_format of a chat."""
    if asked is None:
        return None
    if asked.type != "json_schema":
        return {"type": asked.type}
    if asked.name is None or asked.schema_ is None:
        raise RequestError("'text.format' needs a name and a schema.", mend="Give both.", param="text")
    return {"type": "json_schema", "json_schema": {"name": asked.name, "schema": asked.schema_}}


@dataclass(slots=True)
class Answer:
    """`turns` is the conversation without instructions: what came before, and the new input."""

    ask: ResponsesRequest
    turns: list[Turn]
    sampling: dict[str, float] = field(default_factory=dict)  # the model's own
    id: str = field(default_factory=lambda: new_id("resp"))
    created_at: int = field(default_factory=lambda: int(time.time()))

    def begun(self, status: str = "in_progress") -> dict[str, Any]:
        ask = self.ask
        text_format = ask.text.format if ask.text and ask.text.format else TextFormat(type="text")
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "status": status,
            "background": bool(ask.background),
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "instructions": ask.instructions,
            "max_output_tokens": ask.max_output_tokens,
            "metadata": ask.metadata or {},
            "model": ask.model,
            "output": [],
            "parallel_tool_calls": ask.parallel_tool_calls is not False,
            "previous_response_id": ask.previous_response_id,
            "reasoning": {"effort": ask.reasoning.effort if ask.reasoning else None, "summary": None},
            "store": ask.store is not False,
            "temperature": self.sampling.get("temperature", 1.0) if ask.temperature is None else ask.temperature,
            "text": {"format": text_format.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": "auto"
            if ask.tool_choice is None
            else ask.tool_choice
            if isinstance(ask.tool_choice, str)
            else ask.tool_choice.model_dump(),
            "tools": [{"parameters": None, "strict": None} | tool.model_dump() for tool in ask.tools or []],
            "top_p": self.sampling.get("top_p", 1.0) if ask.top_p is None else ask.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": ask.user,
        }

    def ended(self, outcome: Outcome, output: list[dict[str, Any]]) -> dict[str, Any]:
        status = status_of(outcome)
        return self.begun(status) | {
            "completed_at": int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": output,
            "usage": usage_body(outcome),
        }

    def failed(self, error: Exception) -> dict[str, Any]:
        _, message, _, _ = describe(error)
        return self.begun("failed") | {"error": {"code": "server_error", "message": message}}

    def said(self, output: list[dict[str, Any]]) -> list[Turn]:
        """The conversation that a next answer goes on from."""
        return [*self.turns, turn_of_answer(output)]


def check_whole(outcome: Outcome) -> Outcome:
    """Raises UnavailableError where the server ended the text."""
    if outcome.finish_reason == "abort":
        raise ended_early()
    return outcome


def status_of(outcome: Outcome) -> str:
    """Incomplete where max_output_tokens or the engine's limit cut it."""
    return "incomplete" if outcome.finish_reason == "length" else "completed"


def usage_body(outcome: Outcome) -> dict[str, Any] | None:
    usage = outcome.usage
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
