"""/v1/messages and /v1/messages/count_tokens: each reads a body, asks the backend, writes a reply."""

from __future__ import annotations

import uuid

from fastapi import FastAPI, Request
from starlette.responses import Response

from ingot.client.anthropic.convert import failure_body, messages_to_ours, prompt_of, whole_message
from ingot.client.anthropic.events import MessageEvents
from ingot.client.anthropic.schema import REFUSED_COUNT, REFUSED_MESSAGES, CountTokensRequest, MessagesRequest
from ingot.client.backend import Backend
from ingot.client.dialect import answer_of, failing_as, json_reply
from ingot.client.openai.body import read_body
from ingot.client.openai.schema_sampling import api_schema
from ingot.client.openai.streaming import event_stream, number_zero


def add_anthropic_routes(app: FastAPI, backend: Backend) -> None:
    @app.post("/v1/messages", openapi_extra=api_schema(MessagesRequest))
    @failing_as(failure_body)
    async def messages(request: Request) -> Response:
        body = await read_body(request, MessagesRequest, REFUSED_MESSAGES)
        ours = messages_to_ours(body, f"msg_{uuid.uuid4().hex}")
        chunks = number_zero(backend.generate(ours))
        if body.stream:
            return await event_stream(request, chunks, MessageEvents(ours.request_id, body.model))
        return json_reply(whole_message(ours.request_id, body.model, await answer_of(request, chunks)))

    @app.post("/v1/messages/count_tokens", openapi_extra=api_schema(CountTokensRequest))
    @failing_as(failure_body)
    async def count_tokens(request: Request) -> Response:
        body = await read_body(request, CountTokensRequest, REFUSED_COUNT)
        return json_reply({"input_tokens": len(await backend.tokenize(body.model, prompt_of(body)))})
