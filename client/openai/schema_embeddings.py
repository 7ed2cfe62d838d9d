"""The body of /v1/embeddings: the fields that are honoured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from ingot.client.openai.schema_completions import Tokens
from ingot.client.openai.schema_sampling import COUNT_BOUND, STRICT

MAX_INPUTS = 2048  # OpenAI's

Text = Annotated[str, Field(min_length=1)]
Input = Annotated[
    Text
    | Tokens
    | Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]
    | Annotated[list[Tokens], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)],
    Field(union_mode="left_to_right"),
]


class EmbeddingsRequest(BaseModel):
    model_config = STRICT

    model: Annotated[str, Field(min_length=1, max_length=512)]
    input: Input
    dimensions: Annotated[int | None, Field(ge=1, lt=COUNT_BOUND)] = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None

    # vLLM's extras
    pooling: Literal["mean", "last", "cls"] | None = None  # the engine's own if not given
    normalize: bool | None = None  # the engine's own if not given; true for all but what was trained otherwise
    priority: Annotated[int | None, Field(ge=-COUNT_BOUND, lt=COUNT_BOUND)] = None
