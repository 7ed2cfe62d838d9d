"""The body of /v1/responses: the fields that are honoured, and those that are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from ingot.client.openai.refusals import REFUSED_CHAT, Refusal, one_of
from ingot.client.openai.schema_sampling import COUNT_BOUND, STRICT

Label = Annotated[str, Field(max_length=512)]


class InputPart(BaseModel):
    model_config = STRICT

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] | None = None  # of an answer that is sent back
    logprobs: list[Any] | None = None


class InputMessage(BaseModel):
    model_config = STRICT

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[InputPart], Field(fail_fast=True)]
    id: Label | None = None  # of an answer that is sent back, as are the two below
    status: Label | None = None
    phase: Label | None = None


class StreamOptions(BaseModel):
    model_config = STRICT

    include_obfuscation: Literal[False] | None = None  # events are never padded


class ResponsesRequest(BaseModel):
    model_config = STRICT

    model: Annotated[str, Field(min_length=1, max_length=512)]
    input: str | Annotated[list[InputMessage], Field(fail_fast=True, min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int | None, Field(ge=1, lt=COUNT_BOUND)] = None
    temperature: Annotated[float | None, Field(ge=0)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    previous_response_id: Label | None = None
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: Annotated[dict[Annotated[str, Field(max_length=64)], Label] | None, Field(max_length=16)] = None
    user: Label | None = None


def is_plain_text(value: Any) -> bool:
    plain = {"format": {"type": "text"}, "verbosity": "medium"}
    return isinstance(value, dict) and all(plain.get(name) == asked for name, asked in value.items())


NO_TOOLS = "Tools are not supported on this route; use /v1/chat/completions."
NOT_HERE = "It belongs to OpenAI's own service; leave it out."
SHARED = (
    "moderation",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
)
REFUSED_RESPONSES: dict[str, Refusal] = {name: REFUSED_CHAT[name] for name in SHARED} | {
    "access_programs": Refusal(harmless=one_of({}), mend=NOT_HERE),
    "background_options": Refusal(harmless=one_of({}), mend=NOT_HERE),
    "context_management": Refusal(harmless=one_of([]), mend="Shorten the input yourself."),
    "conversation": Refusal(harmless=one_of(), mend="Use previous_response_id."),
    "image": Refusal(harmless=one_of({}), mend="This server takes text only."),
    "include": Refusal(harmless=one_of([]), mend="Nothing more can be included; leave it out."),
    "max_tool_calls": Refusal(harmless=one_of(), mend=NO_TOOLS),
    "parallel_tool_calls": Refusal(harmless=one_of(True, False), mend=NO_TOOLS),
    "prompt": Refusal(harmless=one_of(), mend="Stored prompts are not supported; send the text as input."),
    "reasoning": Refusal(harmless=one_of({}, {"effort": "none"}), mend="Leave it out."),
    "text": Refusal(harmless=is_plain_text, mend='Only {"format": {"type": "text"}} is supported on this route.'),
    "tool_choice": Refusal(harmless=one_of("auto", "none"), mend=NO_TOOLS),
    "tools": Refusal(harmless=one_of([]), mend=NO_TOOLS),
    "top_logprobs": Refusal(harmless=one_of(0), mend="Use /v1/chat/completions for log-probabilities."),
    "truncation": Refusal(
        harmless=one_of("disabled"), mend='Only "disabled" is supported: shorten the input yourself.'
    ),
}
