"""TEI's /embed: reads a body, asks the backend, writes a list of vectors. TEI serves one model and names none."""

from __future__ import annotations

import asyncio

import msgspec
from fastapi import FastAPI, Request
from starlette.responses import Response

from ingot.client.backend import Backend
from ingot.client.dialect import failing_as
from ingot.client.openai.body import read_body
from ingot.client.openai.embeddings import Shape, embed_all, new_request, to_vectors
from ingot.client.openai.schema_sampling import api_schema
from ingot.client.openai.streaming import until_gone
from ingot.client.tei.schema import REFUSED_EMBED, EmbedBody
from ingot.client.tgi.convert import failure_body


def add_tei_routes(app: FastAPI, backend: Backend) -> None:
    @app.post("/embed", openapi_extra=api_schema(EmbedBody))
    @failing_as(failure_body)
    async def embed(request: Request) -> Response:
        return await answer(backend, request)


async def answer(backend: Backend, request: Request) -> Response:
    """[[...], ...], one vector a text; one text alone gets a list of one too."""
    body = await read_body(request, EmbedBody, REFUSED_EMBED)
    card = (await backend.models())[0]
    shape = Shape(normalize=body.normalize, dimensions=body.dimensions)
    shape.check(card)
    asked = new_request(card.name, truncate=body.cut)
    chunks = await until_gone(request, embed_all(backend, body.inputs, asked))

    def spell() -> bytes:
        return msgspec.json.encode(shape.apply(to_vectors(chunks), card).tolist())

    return Response(await asyncio.to_thread(spell), media_type="application/json")
