"""One answer of /v1/responses: the request for the backend, and the body at every point of its life. No I/O."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from ingot.client.openai.errors import describe
from ingot.client.openai.replies import Outcome
from ingot.client.openai.schema_responses import InputMessage, ResponsesRequest
from ingot.errors import RequestError, UnavailableError
from ingot.runtime.params import SamplingParams
from ingot.runtime.request import GenerateRequest, Prompt

Turn = dict[str, Any]


def check_ask(ask: ResponsesRequest) -> None:
    """Raises RequestError where fields contradict each other."""
    if ask.background and ask.stream:
        raise RequestError("'background' does not stream.", mend="Leave out one of them.", param="background")
    if ask.background and ask.store is False:
        raise RequestError("'background' needs 'store'.", mend="Leave store out.", param="store")
    if ask.stream_options is not None and not ask.stream:
        raise RequestError("'stream_options' without 'stream'.", mend="Set stream to true.", param="stream_options")


def turns_of(ask: ResponsesRequest) -> list[Turn]:
    if isinstance(ask.input, str):
        return [{"role": "user", "content": ask.input}]
    return [turn_of(message) for message in ask.input]


def turn_of(message: InputMessage) -> Turn:
    role = "system" if message.role == "developer" else message.role
    content = message.content
    return {"role": role, "content": content if isinstance(content, str) else "\n".join(part.text for part in content)}


@dataclass(slots=True)
class Answer:
    """`turns` is the conversation without instructions: what came before, and the new input."""

    ask: ResponsesRequest
    turns: list[Turn]
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    item_id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")
    created_at: int = field(default_factory=lambda: int(time.time()))

    def request(self) -> GenerateRequest:
        ask = self.ask
        given = {name: getattr(ask, name) for name in ("temperature", "top_p") if getattr(ask, name) is not None}
        system = [{"role": "system", "content": ask.instructions}] if ask.instructions else []
        return GenerateRequest(
            request_id=self.id,
            model=ask.model,
            prompt=Prompt(messages=system + self.turns),
            params=SamplingParams(max_tokens=ask.max_output_tokens, **given),
        )

    def begun(self, status: str = "in_progress") -> dict[str, Any]:
        ask = self.ask
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
            "parallel_tool_calls": True,
            "previous_response_id": ask.previous_response_id,
            "store": ask.store is not False,
            "temperature": 1.0 if ask.temperature is None else ask.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0 if ask.top_p is None else ask.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": ask.user,
        }

    def ended(self, outcome: Outcome) -> dict[str, Any]:
        """Completed, or incomplete where max_output_tokens or the engine's limit cut it. Raises UnavailableError."""
        if outcome.finish_reason == "abort":
            raise UnavailableError("The server ended this answer early.", mend="Send the request again.")
        whole = outcome.finish_reason != "length"
        item = self.item(outcome.text, "completed" if whole else "incomplete")
        return self.begun("completed" if whole else "incomplete") | {
            "completed_at": int(time.time()),
            "incomplete_details": None if whole else {"reason": "max_output_tokens"},
            "output": [item],
            "usage": usage_body(outcome),
        }

    def failed(self, error: Exception) -> dict[str, Any]:
        _, message, _, _ = describe(error)
        return self.begun("failed") | {"error": {"code": "server_error", "message": message}}

    def item(self, text: str | None, status: str) -> dict[str, Any]:
        """The answer's one message; without content while there is none."""
        content = [] if text is None else [text_part(text)]
        return {"id": self.item_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def said(self, text: str) -> list[Turn]:
        """The conversation that a next answer goes on from."""
        return [*self.turns, {"role": "assistant", "content": text}]


def text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


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
