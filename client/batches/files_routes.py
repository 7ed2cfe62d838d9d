"""/v1/files: upload, look at, list, read, delete. Knows multipart forms; the bytes are the service's."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, Response

from ingot.client.batches.files import StoredFile
from ingot.client.batches.pages import page, refuse_other_words
from ingot.client.batches.routes import owner, served
from ingot.client.batches.schema import MAX_SECONDS, ExpiresAfter
from ingot.client.batches.service import BatchService
from ingot.client.dialect import json_reply
from ingot.client.openai.errors import ClientGoneError, from_validation
from ingot.errors import RequestError

UPLOAD_SECONDS = 900.0
MOST_LISTED = 10_000
FIELDS = ("file", "purpose", "expires_after[anchor]", "expires_after[seconds]")
UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["batch"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "string"},
                    },
                }
            }
        },
    }
}


def add_file_routes(app: FastAPI, service: BatchService | None) -> None:
    @app.post("/v1/files", openapi_extra=UPLOAD)
    async def create(request: Request) -> Response:
        return json_reply((await upload(request, served(service))).body())

    @app.get("/v1/files")
    async def files(request: Request) -> Response:
        refuse_other_words(request, "after", "limit", "order", "purpose")
        found = served(service).files.of(owner(request))
        purpose = request.query_params.get("purpose")
        chosen = [one for one in found if purpose in (None, one.purpose)]
        return json_reply(page(request, chosen, most=MOST_LISTED, usual=MOST_LISTED))

    @app.get("/v1/files/{file_id}")
    async def file(request: Request, file_id: str) -> Response:
        return json_reply(served(service).file(file_id, owner(request)).body())

    @app.get("/v1/files/{file_id}/content")
    async def content(request: Request, file_id: str) -> Response:
        ready = served(service)
        found = ready.file(file_id, owner(request))
        return FileResponse(ready.files.content(found.id), media_type="application/octet-stream")

    @app.delete("/v1/files/{file_id}")
    async def delete(request: Request, file_id: str) -> Response:
        ready = served(service)
        found = ready.file(file_id, owner(request))
        await asyncio.to_thread(ready.files.delete, found.id)
        return json_reply({"id": found.id, "object": "file", "deleted": True})


async def upload(request: Request, service: BatchService) -> StoredFile:
    """Raises RequestError, naming the field. The form's own temporary file is gone afterwards."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RequestError("A file is uploaded as a form.", mend="Send it as multipart/form-data.")
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            form = await request.form(max_files=1, max_fields=len(FIELDS))
    except TimeoutError as error:
        raise RequestError(f"The file did not arrive within {UPLOAD_SECONDS:.0f} s.", mend="Send it faster.") from error
    except ClientDisconnect as error:
        raise ClientGoneError from error
    try:
        file, seconds = read_form(form)
        return await asyncio.to_thread(
            service.files.add,
            file.file,
            owner=owner(request),
            filename=file.filename or "upload",
            purpose="batch",
            seconds=seconds,
        )
    finally:
        await form.close()


def read_form(form: FormData) -> tuple[UploadFile, int]:
    """The file, and the seconds until it expires: 30 days, as OpenAI keeps a batch's, where the form does not say."""
    for name in form:
        if name not in FIELDS or len(form.getlist(name)) > 1:
            raise RequestError(f"Unknown or repeated field '{name[:80]}'.", mend="Remove it.", param=name[:80])
    file, purpose = form.get("file"), form.get("purpose")
    if not isinstance(file, UploadFile):
        raise RequestError("'file' is missing.", mend="Send the file in a part of that name.", param="file")
    if purpose != "batch":
        raise RequestError("Files here are for batches.", mend="Set purpose to batch.", param="purpose")
    if not any(name.startswith("expires_after") for name in form):
        return file, MAX_SECONDS
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    number = int(seconds) if isinstance(seconds, str) and seconds.isdigit() and len(seconds) < 12 else seconds
    try:
        return file, ExpiresAfter.model_validate({"anchor": anchor, "seconds": number}).seconds
    except ValidationError as error:
        found = from_validation(error)
        raise RequestError(found.message, mend=found.mend, param="expires_after") from error
