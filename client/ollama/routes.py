"""Ollama's /api/chat, /api/generate, /api/tags, /api/show and /api/version: each asks the backend, writes a reply."""

from __future__ import annotations

from contextlib import aclosing

from fastapi import FastAPI, Request
from starlette.responses import Response

from ingot import __version__
from ingot.client.backend import Backend, ModelCard
from ingot.client.dialect import converse, ended_early, failing_as, json_reply
from ingot.client.ollama.convert import (
    LATEST,
    Reply,
    chat_of,
    failure_body,
    new_id,
    raw_of,
    show_body,
    tag_body,
    text_chat_of,
)
from ingot.client.ollama.events import Lines
from ingot.client.ollama.schema import (
    REFUSED_GENERATE,
    ChatRequest,
    GenerateRequest,
    ShowRequest,
)
from ingot.client.openai.answers import AS_TEXT, Reading
from ingot.client.openai.body import read_body
from ingot.client.openai.replies import Outcome
from ingot.client.openai.schema_sampling import api_schema
from ingot.client.openai.streaming import Numbered, event_stream, number_zero, until_gone
from ingot.errors import UnknownModelError
from ingot.runtime.request import GenerateRequest as Generate


def add_ollama_routes(app: FastAPI, backend: Backend) -> None:
    @app.post("/api/chat", openapi_extra=api_schema(ChatRequest))
    @failing_as(failure_body)
    async def chat(request: Request) -> Response:
        body = await read_body(request, ChatRequest)
        card = await named(backend, body.model)
        reply, chat = Reply(body.model, chat=True), chat_of(body, card)
        if chat is None:
            return json_reply(reply.loaded())
        found = await converse(backend, chat, new_id())
        return await answer(backend, request, found.ours, found.reading, reply, streams=body.stream is not False)

    @app.post("/api/generate", openapi_extra=api_schema(GenerateRequest))
    @failing_as(failure_body)
    async def generate(request: Request) -> Response:
        body = await read_body(request, GenerateRequest, REFUSED_GENERATE)
        card = await named(backend, body.model)
        reply, streams = Reply(body.model, chat=False), body.stream is not False
        if not body.prompt:
            return json_reply(reply.loaded())
        if body.raw:
            return await answer(backend, request, raw_of(body, card), AS_TEXT, reply, streams=streams)
        found = await converse(backend, text_chat_of(body, card), new_id())
        return await answer(backend, request, found.ours, found.reading, reply, streams=streams)

    @app.get("/api/tags")
    @failing_as(failure_body)
    async def tags() -> Response:
        return json_reply({"models": [tag_body(card) for card in await backend.models()]})

    @app.post("/api/show", openapi_extra=api_schema(ShowRequest))
    @failing_as(failure_body)
    async def show(request: Request) -> Response:
        body = await read_body(request, ShowRequest)
        return json_reply(show_body(await named(backend, body.model)))

    @app.get("/api/version")
    async def version() -> Response:
        return json_reply({"version": __version__})


async def answer(
    backend: Backend, request: Request, ours: Generate, reading: Reading, reply: Reply, *, streams: bool
) -> Response:
    chunks = number_zero(backend.generate(ours))
    if streams:
        return await event_stream(request, chunks, Lines(reply, reading), media_type="application/x-ndjson")
    outcome = await until_gone(request, timed(chunks, reply))
    said = reply.piece(reading.whole(outcome.text), outcome.logprobs)
    return json_reply(said | reply.last(outcome.finish_reason, outcome.usage))


async def timed(chunks: Numbered, reply: Reply) -> Outcome:
    """All that was said, with the first token's time noted. Raises UnavailableError where the server ended it."""
    outcome = Outcome()
    async with aclosing(chunks):
        async for _, chunk in chunks:
            reply.arrived()
            outcome.add(chunk)
    if outcome.finish_reason == "abort":
        raise ended_early()
    return outcome


async def named(backend: Backend, name: str) -> ModelCard:
    """Ollama's clients add a tag to a name that has none."""
    cards = await backend.models()
    for card in cards:
        if name in (card.name, card.name + LATEST):
            return card
    known = ", ".join(card.name for card in cards)
    raise UnknownModelError(f"No model is called {name[:200]!r}.", mend=f"This server has: {known}.")
