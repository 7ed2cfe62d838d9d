"""The bodies of /v1/messages and /v1/messages/count_tokens: the fields that are honoured, and those that are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from ingot.client.openai.refusals import Refusal, is_label, one_of
from ingot.client.openai.schema_sampling import COUNT_BOUND, MAX_STOPS, STRICT, Count, StopString


class TextBlock(BaseModel):
    model_config = STRICT

    type: Literal["text"]
    text: str
    cache_control: Annotated[dict[str, Any] | None, Field(description="Accepted: caching is automatic.")] = None
    citations: None = None


Text = str | Annotated[list[TextBlock], Field(fail_fast=True)]


class Turn(BaseModel):
    model_config = STRICT

    role: Literal["user", "assistant", "system"]
    content: Text


class CountTokensRequest(BaseModel):
    model_config = STRICT

    model: Annotated[str, Field(min_length=1, max_length=512)]
    messages: Annotated[list[Turn], Field(fail_fast=True, min_length=1)]
    system: Text | None = None


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


NO_TOOLS = "Tools are not supported on this route; leave them out."
NOT_HERE = "It belongs to Anthropic's own service; leave it out."

REFUSED_COUNT: dict[str, Refusal] = {
    "cache_control": Refusal(harmless=is_cache_hint, mend='Give {"type": "ephemeral"}; caching is automatic.'),
    "output_config": Refusal(harmless=one_of({}), mend="Say in the prompt what form and length you want."),
    "speed": Refusal(harmless=one_of("standard"), mend='Only "standard" is supported.'),
    "thinking": Refusal(harmless=one_of({"type": "disabled"}), mend='Only {"type": "disabled"} is supported.'),
    "tool_choice": Refusal(harmless=one_of({"type": "none"}), mend=NO_TOOLS),
    "tools": Refusal(harmless=one_of([]), mend=NO_TOOLS),
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
