"""The body of TEI's /embed: the fields that are honoured, and those that are refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from ingot.client.openai.refusals import Refusal, one_of
from ingot.client.openai.schema_embeddings import Input
from ingot.client.openai.schema_sampling import COUNT_BOUND, STRICT


class EmbedBody(BaseModel):
    model_config = STRICT

    inputs: Input
    normalize: bool = True
    truncate: bool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    dimensions: Annotated[int | None, Field(ge=1, lt=COUNT_BOUND)] = None

    @property
    def cut(self) -> Literal["left", "right"] | None:
        """The side that a text too long loses."""
        if not self.truncate:
            return None
        return "left" if self.truncation_direction in ("left", "Left") else "right"


REFUSED_EMBED: dict[str, Refusal] = {
    "prompt_name": Refusal(harmless=one_of(), mend="Put the prompt before the text yourself."),
    "encoding_format": Refusal(harmless=one_of("float"), mend="Ask /v1/embeddings for base64."),
}
