"""Ollama's /api/chat, /api/generate, /api/tags, /api/show and /api/version: each asks the backend, writes a reply."""

from __future__ import annotations

from contextlib import aclosing

from fastapi import FastAPI, Request
from starlette.responses import Response

from ingot import __version__
from ingot.client.backend import Backend, ModelCard
from ingot.client.dialect import ended_early, failing_as, json_reply
from ingot.client.ollama.convert import (
    LATEST,
    Reply,
    chat_prompt,
    failure_body,
    show_body,
    tag_body,
    text_prompt,
    to_ours,
)
from ingot.client.ollama.events import Lines
from ingot.client.ollama.schema import (
    REFUSED_CHAT,
    REFUSED_GENERATE,
    Asked,
    ChatRequest,
    GenerateRequest,
    ShowRequest,
)
from ingot.client.openai.body import read_body
from ingot.client.openai.replies import Outcome
from ingot.client.openai.schema_sampling import api_schema
from ingot.client.openai.streaming import Numbered, event_stream, number_zero, until_gone
from ingot.errors import UnknownModelError
from ingot.runtime.request import Prompt


def add_ollama_routes(app: FastAPI, backend: Backend) -> None:
    @app.post("/api/chat", openapi_extra=api_schema(ChatRequest))
    @failing_as(failure_body)
    async def chat(request: Request) -> Response:
        body = await read_body(request, ChatRequest, REFUSED_CHAT)
        return await answer(backend, request, body, chat_prompt(body), Reply(body.model, chat=True))

    @app.post("/api/generate", openapi_extra=api_schema(GenerateRequest))
    @failing_as(failure_body)
    async def generate(request: Request) -> Response:
        body = await read_body(request, GenerateRequest, REFUSED_GENERATE)
        return await answer(backend, request, body, text_prompt(body), Reply(body.model, chat=False))

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


async def answer(backend: Backend, request: Request, body: Asked, prompt: Prompt | None, reply: Reply) -> Response:
    card = await named(backend, body.model)
    if prompt is None:
        return json_reply(reply.loaded())
    chunks = number_zero(backend.generate(to_ours(body, prompt, card)))
    if body.stream is not False:
        return await event_stream(request, chunks, Lines(reply), media_type="application/x-ndjson")
    outcome = await until_gone(request, timed(chunks, reply))
    return json_reply(reply.piece(outcome.text, outcome.logprobs) | reply.last(outcome.finish_reason, outcome.usage))


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
