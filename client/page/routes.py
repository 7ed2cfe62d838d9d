"""The page's files, which anybody may have, and its stream of figures, which asks for the key like every other route."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import Response

from ingot.client.backend import Backend
from ingot.client.openai.streaming import EventStream
from ingot.client.page.board import Board
from ingot.client.page.failures import CountFailures, FailureLog
from ingot.client.page.paths import OPEN_FILES, STREAM

FILES = Path(__file__).parent / "files"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_page_routes(app: FastAPI, backend: Backend) -> None:
    failures = FailureLog()
    board = Board(backend, failures)
    app.add_middleware(CountFailures, log=failures)
    for path, (name, media_type) in OPEN_FILES.items():
        add_file(app, path, (FILES / name).read_bytes(), media_type)

    @app.get(STREAM, include_in_schema=False)
    async def stream() -> Response:
        events = board.watch()
        return EventStream(await anext(events), events)


def add_file(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    @app.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)
    async def file() -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)
