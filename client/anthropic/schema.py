"""The bodies of /v1/messages and /v1/messages/count_tokens: the fields that are honoured, and those that are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from ingot.client.openai.refusals import Refusal, is_label, one_of
from ingot.client.openai.schema_chat import FunctionName
from ingot.client.openai.schema_sampling import COUNT_BOUND, MAX_STOPS, STRICT, Count, StopString
from ingot.client.openai.schema_structured import Schema

CacheControl = Annotated[dict[str, Any] | None, Field(description="Accepted: caching is automatic.")]


class TextBlock(BaseModel):
    model_config = STRICT

    type: Literal["text"]
    text: str
    cache_control: CacheControl = None
    citations: None = None


Text = str | Annotated[list[TextBlock], Field(fail_fast=True)]


class ThinkingBlock(BaseModel):
    model_config = STRICT

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class Caller(BaseModel):
    model_config = STRICT

    type: Literal["direct"]


class ToolUseBlock(BaseModel):
    model_config = STRICT

    type: Literal["tool_use"]
    id: Annotated[str, Field(min_length=1, max_length=512)]
    name: FunctionName
    input: dict[str, Any]
    cache_control: CacheControl = None
    caller: Caller | None = None


class ToolResultBlock(BaseModel):
    model_config = STRICT

    type: Literal["tool_result"]
    tool_use_id: Annotated[str, Field(min_length=1, max_length=512)]
    content: Text | None = None
    is_error: Annotated[bool | None, Field(description='The model reads "Error: " before the content.')] = None
    cache_control: CacheControl = None


Block = Annotated[TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]


class Turn(BaseModel):
    model_config = STRICT

    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[Block], Field(fail_fast=True)]


class Tool(BaseModel):
    model_config = STRICT

    type: Literal["custom"] | None = None
    name: FunctionName
    description: str | None = None
    input_schema: dict[str, Any]
    cache_control: CacheControl = None
    allowed_callers: Annotated[list[Literal["direct"]] | None, Field(max_length=1)] = None
    defer_loading: Literal[False] | None = None
    eager_input_streaming: Annotated[Literal[True] | None, Field(description="Inputs come as they are written.")] = None
    input_examples: Annotated[list[Any] | None, Field(max_length=0)] = None
    strict: bool | None = None


class ToolChoice(BaseModel):
    model_config = STRICT

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(BaseModel):
    model_config = STRICT

    type: Literal["adaptive", "disabled", "enabled"]
    budget_tokens: Annotated[int | None, Field(description="Refused: thoughts cannot be bounded.")] = None
    display: Literal["summarized"] | None = None


class OutputFormat(BaseModel):
    model_config = STRICT

    type: Literal["json_schema"]
    schema_: Annotated[Schema, Field(alias="schema")]


class OutputConfig(BaseModel):
    model_config = STRICT

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class CountTokensRequest(BaseModel):
    model_config = STRICT

    model: Annotated[str, Field(min_length=1, max_length=512)]
    messages: Annotated[list[Turn], Field(fail_fast=True, min_length=1)]
    system: Text | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountTokensRequest):
    max_tokens: Annotated[int, Field(ge=1, lt=COUNT_BOUND)]
    stop_sequences: Annotated[list[StopString], Field(fail_fast=True, max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    temperature: Annotated[float | None, Field(ge=0)] = None
    top_k: Count | None = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None


def is_owner(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() <= {"user_id"} and all(map(is_label, value.values()))


def is_cache_hint(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") == "ephemeral"


NOT_HERE = "It belongs to Anthropic's own service; leave it out."

REFUSED_COUNT: dict[str, Refusal] = {
    "cache_control": Refusal(harmless=is_cache_hint, mend='Give {"type": "ephemeral"}; caching is automatic.'),
    "speed": Refusal(harmless=one_of("standard"), mend='Only "standard" is supported.'),
    "user_profile_id": Refusal(harmless=is_label, mend="Give a short string."),
    "workspace_id": Refusal(harmless=is_label, mend="Give a short string."),
}
REFUSED_MESSAGES: dict[str, Refusal] = REFUSED_COUNT | {
    "container": Refusal(harmless=one_of(), mend=NOT_HERE),
    "diagnostics": Refusal(harmless=one_of(), mend=NOT_HERE),
    "inference_geo": Refusal(harmless=one_of(), mend=NOT_HERE),
    "mcp_servers": Refusal(harmless=one_of([]), mend=NOT_HERE),
    "metadata": Refusal(harmless=is_owner, mend='Give {"user_id": "..."}.'),
    "service_tier": Refusal(harmless=one_of("auto", "standard_only"), mend='Only "auto" and "standard_only" pass.'),
}
