"""The body of /v1/responses: the fields that are honoured, and those that are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from ingot.client.openai.refusals import REFUSED_CHAT, Refusal, one_of
from ingot.client.openai.schema_chat import Effort, FunctionName
from ingot.client.openai.schema_sampling import COUNT_BOUND, STRICT
from ingot.client.openai.schema_structured import Schema

Label = Annotated[str, Field(max_length=512)]


class InputPart(BaseModel):
    model_config = STRICT

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] | None = None  # of an answer that is sent back
    logprobs: list[Any] | None = None


Text = str | Annotated[list[InputPart], Field(fail_fast=True)]


class InputMessage(BaseModel):
    model_config = STRICT

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Text
    id: Label | None = None  # of an answer that is sent back, as are the two below and those of the other items
    status: Label | None = None
    phase: Label | None = None


class FunctionCall(BaseModel):
    model_config = STRICT

    type: Literal["function_call"]
    call_id: Label
    name: FunctionName
    arguments: str
    id: Label | None = None
    status: Label | None = None
    namespace: None = None
    caller: None = None


class FunctionCallOutput(BaseModel):
    model_config = STRICT

    type: Literal["function_call_output"]
    call_id: Label
    output: Text
    id: Label | None = None
    status: Label | None = None
    name: Label | None = None


class ReasoningPart(BaseModel):
    model_config = STRICT

    type: Literal["reasoning_text", "summary_text"]
    text: str


class Reasoning(BaseModel):
    """What was thought before. Of another service's, whose content is encrypted, nothing could be read."""

    model_config = STRICT

    type: Literal["reasoning"]
    summary: Annotated[list[ReasoningPart], Field(fail_fast=True)] = []
    content: Annotated[list[ReasoningPart] | None, Field(fail_fast=True)] = None
    encrypted_content: None = None
    id: Label | None = None
    status: Label | None = None


def kind_of(item: Any) -> Any:
    """A message need not say that it is one."""
    return (item.get("type") or "message") if isinstance(item, dict) else getattr(item, "type", None)


Item = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[Reasoning, Tag("reasoning")],
    Discriminator(kind_of),
]


class StreamOptions(BaseModel):
    model_config = STRICT

    include_obfuscation: Literal[False] | None = None  # events are never padded


class FunctionTool(BaseModel):
    model_config = STRICT

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedChoice(BaseModel):
    model_config = STRICT

    type: Literal["function"]
    name: str


class ReasoningAsked(BaseModel):
    model_config = STRICT

    effort: Effort | None = None
    summary: Annotated[Literal["auto"] | None, Field(description="Thoughts come whole, never summed up.")] = None


class TextFormat(BaseModel):
    model_config = STRICT

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    description: str | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: Annotated[bool | None, Field(description="Schemas are always enforced; false changes nothing.")] = None


class TextAsked(BaseModel):
    model_config = STRICT

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class ResponsesRequest(BaseModel):
    model_config = STRICT

    model: Annotated[str, Field(min_length=1, max_length=512)]
    input: str | Annotated[list[Item], Field(fail_fast=True, min_length=1)]
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
    tools: Annotated[list[FunctionTool], Field(fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningAsked | None = None
    text: TextAsked | None = None


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
    "include": Refusal(
        harmless=one_of([], ["reasoning.encrypted_content"]),  # thoughts come readable, and may come back so
        mend="Nothing more can be included; leave it out.",
    ),
    "max_tool_calls": Refusal(harmless=one_of(), mend="It bounds built-in tools, which are not here; leave it out."),
    "prompt": Refusal(harmless=one_of(), mend="Stored prompts are not supported; send the text as input."),
    "top_logprobs": Refusal(harmless=one_of(0), mend="Use /v1/chat/completions for log-probabilities."),
    "truncation": Refusal(
        harmless=one_of("disabled"), mend='Only "disabled" is supported: shorten the input yourself.'
    ),
}
