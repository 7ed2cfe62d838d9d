"""The fields that chat and text completions share, as they come over the wire: OpenAI's and the extras that vLLM made common.

Null means "not given" for every field. Ranges that depend on the engine are checked behind the Backend.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ingot.client.openai.schema_structured import Choices, ResponseFormat, Schema, StructuredOutputs, Text

__all__ = ["MAX_LOGPROBS", "MAX_STOPS"]  # the engine's own, for the dialects
from ingot.runtime.validate import MAX_LOGPROBS, MAX_STOP_LENGTH, MAX_STOP_TOKEN_IDS, MAX_STOPS

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
MAX_SEQUENCES = 128  # n
SEED_BOUND = 1 << 63
COUNT_BOUND = 1 << 31

StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Count = Annotated[int, Field(ge=0, lt=COUNT_BOUND)]
TokenId = Count
Penalty = Annotated[float, Field(ge=-2, le=2)]


class StreamOptions(BaseModel):
    model_config = STRICT

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Annotated[bool | None, Field(description="Only false: events are never padded.")] = None


class SamplingFields(BaseModel):
    model_config = STRICT

    model: Annotated[str, Field(min_length=1, max_length=512)]
    max_tokens: Count | None = None
    n: Annotated[int | None, Field(ge=1, le=MAX_SEQUENCES)] = None
    temperature: Annotated[float | None, Field(ge=0)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]] | None, Field(max_length=1024)] = None
    seed: Annotated[int | None, Field(ge=-SEED_BOUND, lt=SEED_BOUND)] = None
    stop: StopString | Annotated[list[StopString], Field(fail_fast=True, max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None

    # vLLM's extras
    top_k: Annotated[int | None, Field(ge=-1, lt=COUNT_BOUND)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0)] = None
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True, max_length=MAX_STOP_TOKEN_IDS)] | None = None
    ignore_eos: bool | None = None
    min_tokens: Count | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    prompt_logprobs: Annotated[int | None, Field(ge=0, le=MAX_LOGPROBS)] = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | Text | None = None
    guided_regex: Text | None = None
    guided_choice: Choices | None = None
    guided_grammar: Text | None = None
    return_token_ids: bool | None = None
    cache_salt: Annotated[str | None, Field(min_length=1, max_length=256)] = None
    priority: Annotated[int | None, Field(ge=-COUNT_BOUND, lt=COUNT_BOUND)] = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)


def api_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The request body's part of a route's OpenAPI description."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}
