"""/v1/messages and /v1/messages/count_tokens: each reads a body, asks the backend, writes a reply."""

from __future__ import annotations

import uuid

from fastapi import FastAPI, Request
from starlette.responses import Response

from ingot.client.anthropic.convert import chat_of, failure_body, whole_message
from ingot.client.anthropic.events import MessageEvents
from ingot.client.anthropic.schema import REFUSED_COUNT, REFUSED_MESSAGES, CountTokensRequest, MessagesRequest
from ingot.client.backend import Backend, ModelCard, find_model
from ingot.client.dialect import answer_of, converse, failing_as, json_reply
from ingot.client.openai.body import read_body
from ingot.client.openai.convert import prompt_of
from ingot.client.openai.schema_chat import ChatRequest
from ingot.client.openai.schema_sampling import api_schema
from ingot.client.openai.streaming import event_stream, number_zero
from ingot.client.openai.thinking import thinking_args, thinking_on
from ingot.errors import RequestError


def add_anthropic_routes(app: FastAPI, backend: Backend) -> None:
    @app.post("/v1/messages", openapi_extra=api_schema(MessagesRequest))
    @failing_as(failure_body)
    async def messages(request: Request) -> Response:
        body = await read_body(request, MessagesRequest, REFUSED_MESSAGES)
        request_id = f"msg_{uuid.uuid4().hex}"
        chat = thinking_of(body, chat_of(body), await find_model(backend, body.model))
        found = await converse(backend, chat, request_id)
        chunks = number_zero(backend.generate(found.ours))
        if body.stream:
            return await event_stream(request, chunks, MessageEvents(request_id, body.model, found.reading))
        outcome = await answer_of(request, chunks)
        return json_reply(whole_message(request_id, body.model, found.reading.whole(outcome.text), outcome))

    @app.post("/v1/messages/count_tokens", openapi_extra=api_schema(CountTokensRequest))
    @failing_as(failure_body)
    async def count_tokens(request: Request) -> Response:
        body = await read_body(request, CountTokensRequest, REFUSED_COUNT)
        card = await find_model(backend, body.model)
        prompt = prompt_of(thinking_of(body, chat_of(body), card), card)
        return json_reply({"input_tokens": len(await backend.tokenize(body.model, prompt))})


def thinking_of(body: CountTokensRequest, chat: ChatRequest, card: ModelCard) -> ChatRequest:
    """The chat with what is asked of its model's thoughts. Raises RequestError where it cannot be had of this model."""
    thinking, effort = body.thinking, body.output_config.effort if body.output_config else None
    args = thinking_args(effort, card, param="output_config")
    if thinking is not None and (thinking.type == "enabled" or thinking.budget_tokens is not None):
        raise RequestError(
            "Thoughts cannot be bounded by 'budget_tokens'.",
            mend='Send the field \'thinking\' as {"type": "adaptive"}, and bound all with max_tokens.',
            param="thinking",
        )
    if thinking is not None and thinking.type == "adaptive":
        args |= thinking_on(card, param="thinking")
    return chat.model_copy(update={"chat_template_kwargs": args or None})
