"""TGI's /generate, /generate_stream, /info and POST /: each reads a body, asks the backend, writes a reply."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from ingot import __version__
from ingot.client.backend import Backend
from ingot.client.dialect import ended_early, failing_as, json_reply
from ingot.client.openai.body import read_body
from ingot.client.openai.schema_sampling import MAX_SEQUENCES, MAX_STOPS, api_schema
from ingot.client.openai.streaming import collect, event_stream, number_zero, until_gone
from ingot.client.tei import routes as tei
from ingot.client.tgi.convert import failure_body, generation_body, parameters_of, sampling_params
from ingot.client.tgi.events import TokenEvents
from ingot.client.tgi.schema import Parameters, TgiRequest
from ingot.errors import RequestError
from ingot.runtime.request import GenerateRequest, Prompt


def add_tgi_routes(app: FastAPI, backend: Backend) -> None:
    @app.post("/generate", openapi_extra=api_schema(TgiRequest))
    @failing_as(failure_body)
    async def generate(request: Request) -> Response:
        body = await read_body(request, TgiRequest)
        if body.stream:
            raise RequestError("'stream' is set.", mend="Use /generate_stream, or POST to /.", param="stream")
        return json_reply(await whole(backend, request, body))

    @app.post("/generate_stream", openapi_extra=api_schema(TgiRequest))
    @failing_as(failure_body)
    async def generate_stream(request: Request) -> Response:
        return await streamed(backend, request, await read_body(request, TgiRequest))

    @app.post("/", openapi_extra=api_schema(TgiRequest))
    @failing_as(failure_body)
    async def compat_generate(request: Request) -> Response:
        if "generate" not in (await backend.models())[0].tasks:
            return await tei.answer(backend, request)  # as TEI has it on this route
        body = await read_body(request, TgiRequest)
        return (
            await streamed(backend, request, body) if body.stream else json_reply([await whole(backend, request, body)])
        )

    @app.get("/info")
    @failing_as(failure_body)
    async def info() -> Response:
        card = (await backend.models())[0]
        return json_reply(
            {
                "model_id": card.name,
                "model_sha": card.fingerprint or None,
                "model_pipeline_tag": "text-generation" if "generate" in card.tasks else "feature-extraction",
                "max_best_of": MAX_SEQUENCES,
                "max_stop_sequences": MAX_STOPS,
                "max_input_tokens": card.max_model_len - 1,
                "max_total_tokens": card.max_model_len,
                "router": "ingot",
                "version": __version__,
            }
        )


async def whole(backend: Backend, request: Request, body: TgiRequest) -> dict[str, Any]:
    asked = parameters_of(body, streams=False)
    ours = await to_ours(backend, body, asked, streams=False)
    (outcomes,) = await until_gone(request, collect(number_zero(backend.generate(ours)), 1, ours.params.n))
    if any(outcome.finish_reason == "abort" for outcome in outcomes):
        raise ended_early()
    return generation_body(asked, body.inputs, outcomes)


async def streamed(backend: Backend, request: Request, body: TgiRequest) -> Response:
    asked = parameters_of(body, streams=True)
    ours = await to_ours(backend, body, asked, streams=True)
    return await event_stream(request, number_zero(backend.generate(ours)), TokenEvents(asked, body.inputs))


async def to_ours(backend: Backend, body: TgiRequest, asked: Parameters, *, streams: bool) -> GenerateRequest:
    """TGI serves one model and names none; `truncate` keeps the prompt's last tokens."""
    card = (await backend.models())[0]
    prompt = Prompt(text=body.inputs)
    if asked.truncate is not None:
        prompt = Prompt(token_ids=(await backend.tokenize(card.name, prompt))[-asked.truncate :])
    params = sampling_params(asked, card, streams=streams)
    return GenerateRequest(request_id=f"tgi-{uuid.uuid4().hex}", model=card.name, prompt=prompt, params=params)
