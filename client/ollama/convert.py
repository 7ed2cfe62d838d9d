"""Ollama's requests to ours and our chunks to Ollama's replies: pure functions, no I/O."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from pydantic import ValidationError

from ingot.client.backend import ModelCard
from ingot.client.dialect import chat_request, object_of
from ingot.client.ollama.schema import (
    DEFAULTS,
    REFUSED_OPTIONS,
    Asked,
    ChatRequest,
    GenerateRequest,
    Options,
    Turn,
)
from ingot.client.openai import schema_chat as openai
from ingot.client.openai.answers import Delta, joined
from ingot.client.openai.convert import chat_to_ours
from ingot.client.openai.errors import from_validation
from ingot.client.openai.refusals import refuse
from ingot.client.openai.replies import floor
from ingot.client.openai.thinking import thinking_args, thinking_on
from ingot.errors import RequestError
from ingot.runtime import request as ours

LATEST = ":latest"


def chat_of(body: ChatRequest, card: ModelCard) -> openai.ChatRequest | None:
    """None asks for the model to be loaded, no more; a last assistant turn is continued. Raises RequestError."""
    if not body.messages:
        return None
    messages = [message_of(turn) for turn in body.messages]
    last = messages[-1]
    if last.get("tool_calls"):
        raise RequestError("The last message calls a tool.", mend="Send the tool's result after it.", param="messages")
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools or []]
    continues = {"continue_final_message": last["role"] == "assistant"}
    return chat_request(
        fields_of(body, card) | thinking_of(body, card) | continues | {"messages": messages, "tools": tools or None}
    )


def message_of(turn: Turn) -> dict[str, Any]:
    said: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.thinking:
        said["reasoning_content"] = turn.thinking
    if turn.tool_calls:
        said["tool_calls"] = [
            {"id": call.id, "function": {"name": call.function.name, "arguments": encoded(call.function.arguments)}}
            for call in turn.tool_calls
        ]
    if turn.tool_name:
        said["name"] = turn.tool_name
    if turn.tool_call_id:
        said["tool_call_id"] = turn.tool_call_id
    return said


def encoded(arguments: dict[str, Any]) -> str:
    return msgspec.json.encode(arguments).decode()


def text_chat_of(body: GenerateRequest, card: ModelCard) -> openai.ChatRequest:
    """A prompt that is not raw is a conversation of one turn."""
    system = [{"role": "system", "content": body.system}] if body.system else []
    messages = [*system, {"role": "user", "content": body.prompt}]
    return chat_request(fields_of(body, card) | thinking_of(body, card) | {"messages": messages})


def raw_of(body: GenerateRequest, card: ModelCard) -> ours.GenerateRequest:
    """A raw prompt goes as it is, past the template and what is told to it."""
    for name in ("system", "think"):
        if getattr(body, name):
            raise RequestError(f"'{name}' is given with 'raw'.", mend="Write it into the prompt.", param=name)
    chat = chat_request(fields_of(body, card) | {"messages": [{"role": "user", "content": "raw"}]})
    request = chat_to_ours(chat, new_id(), card)
    return msgspec.structs.replace(request, prompt=ours.Prompt(text=body.prompt))


def thinking_of(body: Asked, card: ModelCard) -> dict[str, Any]:
    if body.think is True:
        return {"chat_template_kwargs": thinking_on(card, param="think")}
    effort = "none" if body.think is False else body.think
    thinking_args(effort, card, param="think")  # refused by this dialect's own word
    return {"reasoning_effort": effort}


def fields_of(body: Asked, card: ModelCard) -> dict[str, Any]:
    """The fields of OpenAI's chat that stand for Ollama's options."""
    try:
        options = Options.model_validate(refuse(body.options or {}, REFUSED_OPTIONS))
    except ValidationError as error:
        raise from_validation(error) from error
    if options.num_ctx is not None and options.num_ctx > card.max_model_len:
        raise RequestError(
            f"'num_ctx' is {options.num_ctx}; this engine holds {card.max_model_len} tokens.",
            mend="Lower it, or leave it out.",
            param="num_ctx",
        )
    if options.num_predict == 0:
        raise RequestError("'num_predict' is 0.", mend="Ask for at least 1 token.", param="num_predict")
    same = ("temperature", "top_k", "top_p", "min_p", "seed", "presence_penalty", "frequency_penalty")
    given = {name: getattr(options, name) for name in same} | {"repetition_penalty": options.repeat_penalty}
    return {
        "model": card.name,
        "max_completion_tokens": None if options.num_predict < 0 else options.num_predict,
        "stop": options.stop or None,
        "logprobs": body.logprobs,
        "top_logprobs": body.top_logprobs,
        "response_format": format_of(body.format),
        **DEFAULTS,
        **card.sampling,
        **{name: value for name, value in given.items() if value is not None},
    }


def format_of(asked: dict[str, Any] | bool | str | None) -> dict[str, Any] | None:
    """OpenAI's response_format."""
    if asked is None or asked == "":
        return None
    if asked == "json":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "format", "schema": asked}}


def new_id() -> str:
    return f"ollama-{uuid.uuid4().hex}"


@dataclass(slots=True)
class Reply:
    """The bodies of one answer, of a chat or of a bare prompt, and its times."""

    model: str  # as the request wrote it
    chat: bool
    began: float = field(default_factory=time.monotonic)
    first: float | None = None

    def piece(self, delta: Delta, logprobs: list[ours.Logprob] | None = None) -> dict[str, Any]:
        """`delta` has whole calls alone."""
        thoughts = {"thinking": delta.reasoning} if delta.reasoning else {}
        said: dict[str, Any] = {"response": delta.content, **thoughts}
        if self.chat:
            calls = {"tool_calls": [*map(call_body, joined(delta.calls))]} if delta.calls else {}
            said = {"message": {"role": "assistant", "content": delta.content, **thoughts, **calls}}
        scores = {"logprobs": [logprob_body(one) for one in logprobs]} if logprobs else {}
        return {"model": self.model, "created_at": now(), **said, **scores, "done": False}

    def loaded(self) -> dict[str, Any]:
        return self.piece(Delta()) | {"done": True, "done_reason": "load"}

    def arrived(self) -> None:
        self.first = self.first or time.monotonic()

    def last(self, finish_reason: str | None, usage: ours.Usage | None) -> dict[str, Any]:
        """What the last piece has besides: why it ended, how many tokens, how many nanoseconds."""
        ended = time.monotonic()
        first = self.first or ended
        return {
            "done": True,
            "done_reason": "length" if finish_reason == "length" else "stop",
            "total_duration": nanoseconds(ended - self.began),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens if usage else 0,
            "prompt_eval_duration": nanoseconds(first - self.began),
            "eval_count": usage.completion_tokens if usage else 0,
            "eval_duration": nanoseconds(ended - first),
        }


def call_body(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {"id": call["id"], "function": {"name": function["name"], "arguments": object_of(function["arguments"])}}


def logprob_body(one: ours.Logprob) -> dict[str, Any]:
    def entry(one: ours.Logprob) -> dict[str, Any]:
        return {"token": one.text, "logprob": floor(one.logprob), "bytes": one.bytes}

    return entry(one) | {"top_logprobs": [entry(other) for other in one.top]}


def nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def details_body(card: ModelCard) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "ingot",
        "family": "",
        "families": None,
        "parameter_size": "",
        "quantization_level": card.quant,
    }


def tag_body(card: ModelCard) -> dict[str, Any]:
    built = datetime.fromtimestamp(card.created, UTC).isoformat().replace("+00:00", "Z")
    details = details_body(card)
    return {
        "name": card.name,
        "model": card.name,
        "modified_at": built,
        "size": 0,
        "digest": card.fingerprint,
        "details": details,
    }


def show_body(card: ModelCard) -> dict[str, Any]:
    return {
        "modified_at": tag_body(card)["modified_at"],
        "details": details_body(card),
        "model_info": {
            "general.architecture": "ingot",
            "ingot.context_length": card.max_model_len,
            "ingot.vocab_size": card.vocab_size,
        },
        "capabilities": [
            "completion",
            *(["tools"] if card.tool_parser else []),
            *(["thinking"] if card.reasoning_parser else []),
        ],
    }


def failure_body(status: int, message: str, code: str | None) -> dict[str, Any]:
    return {"error": message}
