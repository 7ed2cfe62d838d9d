"""The body of TGI's /generate, /generate_stream and /: the parameters that are honoured, and those that are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from ingot.client.openai.refusals import Refusal, one_of
from ingot.client.openai.schema_sampling import (
    COUNT_BOUND,
    MAX_LOGPROBS,
    MAX_SEQUENCES,
    MAX_STOPS,
    SEED_BOUND,
    STRICT,
    Penalty,
    StopString,
)
from ingot.client.openai.schema_structured import Schema, Text

DEFAULT_NEW_TOKENS = 100  # TGI's, where the field is absent; null is the engine's limit

Positive = Annotated[int, Field(ge=1, lt=COUNT_BOUND)]


class TgiGrammar(BaseModel):
    model_config = STRICT

    type: Literal["json", "json_schema", "regex"]
    value: Schema | Text  # of json_schema: {"name", "schema"}


class Parameters(BaseModel):
    model_config = STRICT

    best_of: Annotated[int | None, Field(ge=1, le=MAX_SEQUENCES)] = None
    decoder_input_details: bool | None = None
    details: bool | None = None
    do_sample: bool | None = None
    frequency_penalty: Penalty | None = None
    grammar: TgiGrammar | None = None
    max_new_tokens: Positive | None = DEFAULT_NEW_TOKENS
    repetition_penalty: Annotated[float | None, Field(gt=0)] = None
    return_full_text: bool | None = None
    seed: Annotated[int | None, Field(ge=0, lt=SEED_BOUND)] = None
    stop: Annotated[list[StopString], Field(fail_fast=True, max_length=MAX_STOPS)] | None = None
    temperature: Annotated[float | None, Field(gt=0)] = None
    top_k: Positive | None = None
    top_n_tokens: Annotated[int | None, Field(ge=0, le=MAX_LOGPROBS)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    truncate: Positive | None = None

    @property
    def samples(self) -> bool:
        """As TGI's NextTokenChooser: any warper switches sampling on, whatever do_sample says."""
        warped = self.temperature not in (None, 1.0) or self.top_k is not None or self.top_p not in (None, 1.0)
        return bool(self.do_sample) or warped

    @property
    def shows_tokens(self) -> bool:
        return bool(self.details or self.decoder_input_details)


class TgiRequest(BaseModel):
    model_config = STRICT

    inputs: Annotated[str, Field(min_length=1)]
    parameters: dict[str, Any] | None = None  # read as Parameters, once those that are refused are out
    stream: bool | None = None


REFUSED_PARAMETERS: dict[str, Refusal] = {
    "adapter_id": Refusal(harmless=one_of(), mend="Adapters are not supported; leave it out."),
    "typical_p": Refusal(harmless=one_of(), mend="Use top_p or top_k instead."),
    "watermark": Refusal(harmless=one_of(False), mend="Watermarks are not supported; leave it out."),
}
