"""/v1/embeddings: reads a body, asks the backend, writes a reply."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Request
from starlette.responses import Response

from ingot.client.backend import Backend, find_model
from ingot.client.openai.body import read_body
from ingot.client.openai.embeddings import Shape, embed_all, embeddings_body, new_request
from ingot.client.openai.schema_embeddings import EmbeddingsRequest
from ingot.client.openai.schema_sampling import api_schema
from ingot.client.openai.streaming import until_gone


def add_embedding_routes(app: FastAPI, backend: Backend) -> None:
    @app.post("/v1/embeddings", openapi_extra=api_schema(EmbeddingsRequest))
    async def embeddings(request: Request) -> Response:
        body = await read_body(request, EmbeddingsRequest)
        card = await find_model(backend, body.model)
        shape = Shape(normalize=body.normalize, dimensions=body.dimensions)
        shape.check(card)
        asked = new_request(card.name, pooling=body.pooling, priority=body.priority or 0)
        chunks = await until_gone(request, embed_all(backend, body.input, asked))
        # In a thread, since a long list takes a while to spell and everybody's tokens would wait for it.
        reply = await asyncio.to_thread(
            embeddings_body, card, chunks, shape, as_base64=body.encoding_format == "base64"
        )
        return Response(reply, media_type="application/json")
