"""The bodies of /v1/completions, /tokenize and /detokenize: the fields that are honoured."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from ingot.client.openai.schema_chat import Message
from ingot.client.openai.schema_sampling import MAX_LOGPROBS, MAX_SEQUENCES, STRICT, SamplingFields, TokenId

MAX_PROMPTS = 2048
Tokens = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]


class CompletionRequest(SamplingFields):
    prompt: Annotated[
        str
        | Tokens
        | Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[Tokens], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)],
        Field(union_mode="left_to_right"),
    ]
    best_of: Annotated[int | None, Field(ge=1, le=MAX_SEQUENCES)] = None
    echo: bool | None = None
    add_special_tokens: bool | None = None
    logprobs: Annotated[int | None, Field(ge=0, le=MAX_LOGPROBS)] = None


class TokenizeRequest(BaseModel):
    """Either `prompt` or `messages`, as vLLM's."""

    model_config = STRICT

    model: str
    prompt: str | None = None
    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1)] | None = None
    tools: list[dict[str, Any]] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool = False


class DetokenizeRequest(BaseModel):
    model_config = STRICT

    model: str
    tokens: Annotated[list[TokenId], Field(fail_fast=True)]
