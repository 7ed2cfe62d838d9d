"""The fields that say what an answer must look like: OpenAI's response_format and vLLM's extras, old spelling and new."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Schema = dict[str, Any] | bool
Choices = Annotated[list[str], Field(min_length=1, max_length=1024, fail_fast=True)]
Text = Annotated[str, Field(min_length=1)]


class NamedSchema(BaseModel):
    model_config = STRICT

    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: Annotated[bool | None, Field(description="Schemas are always enforced; false changes nothing.")] = None


class ResponseFormat(BaseModel):
    model_config = STRICT

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class StructuredOutputs(BaseModel):
    """vLLM's current spelling: exactly one is given."""

    model_config = STRICT

    json_: Annotated[Schema | Text | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: Text | None = None
    choice: Choices | None = None
    grammar: Text | None = None
