"""/v1/batches: create, look at, list, cancel. Without a service each says why it is not there."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ingot.client.batches.pages import page, refuse_other_words
from ingot.client.batches.schema import BatchRequest
from ingot.client.batches.service import BatchService, owner_of
from ingot.client.dialect import json_reply
from ingot.client.openai.body import read_body
from ingot.client.openai.gate import caller_of
from ingot.client.openai.schema_sampling import api_schema

MOST_LISTED, USUALLY_LISTED = 100, 20


def add_batch_routes(app: FastAPI, service: BatchService | None) -> None:
    @app.post("/v1/batches", openapi_extra=api_schema(BatchRequest))
    async def create(request: Request) -> Response:
        ready = served(service)
        body = await read_body(request, BatchRequest)
        batch = ready.create(
            owner=owner(request),
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            metadata=body.metadata,
            output_seconds=body.output_expires_after.seconds if body.output_expires_after else None,
        )
        return json_reply(batch.body())

    @app.get("/v1/batches")
    async def batches(request: Request) -> Response:
        refuse_other_words(request, "after", "limit", "order")
        found = served(service).batches.of(owner(request))
        return json_reply(page(request, found, most=MOST_LISTED, usual=USUALLY_LISTED))

    @app.get("/v1/batches/{batch_id}")
    async def batch(request: Request, batch_id: str) -> Response:
        return json_reply(served(service).batch(batch_id, owner(request)).body())

    @app.post("/v1/batches/{batch_id}/cancel")
    async def cancel(request: Request, batch_id: str) -> Response:
        ready = served(service)
        found = ready.batch(batch_id, owner(request))
        await ready.cancel(found)
        return json_reply(found.body())


def served(service: BatchService | None) -> BatchService:
    """Raises HTTPException 404 where the server was started without a folder."""
    if service is None:
        raise HTTPException(404, "This server keeps no files and runs no batches: it was started without --batch-dir.")
    return service


def owner(request: Request) -> str:
    return owner_of(caller_of(request.headers))
