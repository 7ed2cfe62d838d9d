"""The routes, and nothing else: each reads a body, asks the backend, writes a reply."""

from __future__ import annotations

import time
import uuid
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from starlette.responses import Response

from ingot import __version__
from ingot.client.anthropic.routes import add_anthropic_routes
from ingot.client.backend import Backend, ModelCard, find_model
from ingot.client.batches.files_routes import add_file_routes
from ingot.client.batches.routes import add_batch_routes
from ingot.client.batches.service import BatchService
from ingot.client.ollama.routes import add_ollama_routes
from ingot.client.openai import errors
from ingot.client.openai.body import read_body
from ingot.client.openai.convert import chat_to_ours, completion_to_ours, tokenize_to_prompt
from ingot.client.openai.embeddings_routes import add_embedding_routes
from ingot.client.openai.gate import Gate, GateOptions
from ingot.client.openai.refusals import REFUSED_CHAT, REFUSED_COMPLETIONS
from ingot.client.openai.replies import CompletionAsk, chat_body, completion_choice, sum_usage
from ingot.client.openai.responses_routes import add_responses_routes
from ingot.client.openai.schema_chat import ChatRequest
from ingot.client.openai.schema_completions import CompletionRequest, DetokenizeRequest, TokenizeRequest
from ingot.client.openai.schema_sampling import api_schema
from ingot.client.openai.sse import ChatEvents, CompletionEvents, UsageTail
from ingot.client.openai.streaming import collect, event_stream, merge, number_zero, until_gone
from ingot.client.openai.tools import reading_of
from ingot.client.openapi import describe_truly
from ingot.client.page.routes import add_page_routes
from ingot.client.tei.routes import add_tei_routes
from ingot.client.tgi.routes import add_tgi_routes
from ingot.runtime.request import GenerateRequest


def create_app(backend: Backend, options: GateOptions | None = None, batches: BatchService | None = None) -> FastAPI:
    """The server's app over a backend, and a service of batches, that somebody else starts and stops."""
    app = FastAPI(title="ingot", version=__version__)
    errors.install(app)
    app.add_middleware(Gate, options=options or GateOptions())
    add_model_routes(app, backend)
    add_generation_routes(app, backend)
    add_embedding_routes(app, backend)
    add_token_routes(app, backend)
    add_service_routes(app, backend)
    add_responses_routes(app, backend)
    add_anthropic_routes(app, backend)
    add_tgi_routes(app, backend)
    add_tei_routes(app, backend)
    add_ollama_routes(app, backend)
    add_file_routes(app, batches)
    add_batch_routes(app, batches)
    add_page_routes(app, backend)
    describe_truly(app)
    return app


def add_generation_routes(app: FastAPI, backend: Backend) -> None:
    @app.post("/v1/chat/completions", openapi_extra=api_schema(ChatRequest))
    async def chat(request: Request) -> Response:
        body = await read_body(request, ChatRequest, REFUSED_CHAT)
        card = await find_model(backend, body.model)
        reading = reading_of(body, card)
        ours = chat_to_ours(body, f"chatcmpl-{uuid.uuid4().hex}", card, marked=reading.needed)
        chunks = number_zero(backend.generate(ours))
        if body.stream:
            head = reply_head(ours.request_id, "chat.completion.chunk", card)
            usage = UsageTail(include=body.include_usage, continuous=body.continuous_usage)
            events = ChatEvents(
                head, usage, logprobs=bool(body.logprobs), token_ids=bool(body.return_token_ids), reading=reading
            )
            return await event_stream(request, chunks, events)
        (outcomes,) = await until_gone(request, collect(chunks, 1, ours.params.n))
        head = reply_head(ours.request_id, "chat.completion", card)
        return json_reply(
            chat_body(
                head,
                outcomes,
                logprobs=bool(body.logprobs),
                token_ids=bool(body.return_token_ids),
                reading=reading,
            )
        )

    @app.post("/v1/completions", openapi_extra=api_schema(CompletionRequest))
    async def completions(request: Request) -> Response:
        body = await read_body(request, CompletionRequest, REFUSED_COMPLETIONS)
        card = await find_model(backend, body.model)
        request_id = f"cmpl-{uuid.uuid4().hex}"
        ours = completion_to_ours(body, request_id, card)
        ask = CompletionAsk(
            echo=bool(body.echo),
            scores_only=body.max_tokens == 0,
            logprobs=body.logprobs is not None,
            prompt_logprobs=body.prompt_logprobs is not None,
            token_ids=bool(body.return_token_ids),
        )
        texts = await prompt_texts(backend, ours) if ask.echo else []
        chunks = (
            merge([backend.generate(one) for one in ours]) if len(ours) > 1 else number_zero(backend.generate(ours[0]))
        )
        head = reply_head(request_id, "text_completion", card)
        n = ours[0].params.n
        if body.stream:
            usage = UsageTail(include=body.include_usage, continuous=body.continuous_usage, scores_only=ask.scores_only)
            return await event_stream(request, chunks, CompletionEvents(head, usage, n=n, prompt_texts=texts, ask=ask))
        outcomes = await until_gone(request, collect(chunks, len(ours), n))
        choices = [
            completion_choice(i * n + j, outcome, texts[i] if texts else "", ask)
            for i, samples in enumerate(outcomes)
            for j, outcome in enumerate(samples)
        ]
        total = sum_usage(outcomes)
        if ask.scores_only:
            total.completion_tokens = 0
        return json_reply({**head, "choices": choices, "usage": total.body()})


def add_token_routes(app: FastAPI, backend: Backend) -> None:
    @app.post("/tokenize", openapi_extra=api_schema(TokenizeRequest))
    async def tokenize(request: Request) -> Response:
        body = await read_body(request, TokenizeRequest)
        card = await find_model(backend, body.model)
        tokens = await backend.tokenize(body.model, tokenize_to_prompt(body))
        reply = {"count": len(tokens), "max_model_len": card.max_model_len, "tokens": tokens, "token_strs": None}
        if body.return_token_strs:
            reply["token_strs"] = [await backend.detokenize(body.model, [token]) for token in tokens]
        return json_reply(reply)

    @app.post("/detokenize", openapi_extra=api_schema(DetokenizeRequest))
    async def detokenize(request: Request) -> Response:
        body = await read_body(request, DetokenizeRequest)
        await find_model(backend, body.model)
        return json_reply({"prompt": await backend.detokenize(body.model, body.tokens)})


def add_model_routes(app: FastAPI, backend: Backend) -> None:
    @app.get("/v1/models")
    async def models() -> Response:
        return json_reply({"object": "list", "data": [model_body(card) for card in await backend.models()]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        return json_reply(model_body(await find_model(backend, name)))


def add_service_routes(app: FastAPI, backend: Backend) -> None:
    @app.get("/health")
    @app.get("/ping")
    async def health() -> Response:
        state = await backend.health()
        return json_reply(
            {"status": "ok" if state.ready else "unavailable", "detail": state.detail}, 200 if state.ready else 503
        )

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(await backend.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/version")
    async def version() -> Response:
        return json_reply({"version": __version__})


async def prompt_texts(backend: Backend, requests: list[GenerateRequest]) -> list[str]:
    """What echo repeats: the prompt as given, or its tokens' text."""
    return [
        await backend.detokenize(request.model, request.prompt.token_ids)
        if request.prompt.token_ids
        else request.prompt.text or ""
        for request in requests
    ]


def reply_head(reply_id: str, kind: str, card: ModelCard) -> dict[str, Any]:
    return {
        "id": reply_id,
        "object": kind,
        "created": int(time.time()),
        "model": card.name,
        "system_fingerprint": f"fp_{card.fingerprint}" if card.fingerprint else None,
    }


def model_body(card: ModelCard) -> dict[str, Any]:
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "ingot",
        "max_model_len": card.max_model_len,
        "target": card.target,
        "quant": card.quant,
        "tasks": card.tasks,
    }


def json_reply(body: dict[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
