"""The bodies of /v1/files and /v1/batches: the fields that are honoured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from ingot.client.batch.lines import URLS
from ingot.client.openai.schema_sampling import STRICT

MIN_SECONDS, MAX_SECONDS = 3600, 30 * 24 * 3600  # OpenAI's, as are the metadata's

Seconds = Annotated[int, Field(ge=MIN_SECONDS, le=MAX_SECONDS)]


class ExpiresAfter(BaseModel):
    model_config = STRICT

    anchor: Literal["created_at"]
    seconds: Seconds


class BatchRequest(BaseModel):
    model_config = STRICT

    input_file_id: Annotated[str, Field(min_length=1, max_length=128)]
    endpoint: Literal[URLS]  # type: ignore[valid-type]
    completion_window: Literal["24h"]
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None, Field(max_length=16)
    ] = None
    output_expires_after: ExpiresAfter | None = None
