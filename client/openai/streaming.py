"""Backend streams to HTTP: merged, watched for the client's leaving, closed on every path. Knows ASGI, no wire format."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ingot.client.openai.errors import ClientGoneError
from ingot.client.openai.replies import Outcome
from ingot.client.page.failures import note_broken_stream
from ingot.runtime.request import Chunk

STALL_SECONDS = 60.0

T = TypeVar("T")
Numbered = AsyncGenerator[tuple[int, Chunk], None]


class Events(Protocol):
    def event(self, chunk: Chunk, prompt: int = 0) -> bytes: ...

    def end(self) -> bytes: ...

    def error(self, error: Exception) -> bytes:
        """The failure as the last event of a stream that had begun well."""
        ...


async def merge(streams: Sequence[AsyncGenerator[Chunk, None]]) -> Numbered:
    """Chunks of all streams as they come, each with its stream's number. The first failure ends them all."""
    waiting: dict[asyncio.Task[Chunk], int] = {}
    try:
        for number, stream in enumerate(streams):
            waiting[take(stream)] = number
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                number = waiting.pop(task)
                if isinstance(task.exception(), StopAsyncIteration):
                    continue
                chunk = task.result()
                waiting[take(streams[number])] = number
                yield number, chunk
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


def take(stream: AsyncGenerator[Chunk, None]) -> asyncio.Task[Chunk]:
    async def following() -> Chunk:
        return await anext(stream)

    return asyncio.create_task(following())


async def number_zero(stream: AsyncGenerator[Chunk, None]) -> Numbered:
    """What merge does, for the one stream that most requests have."""
    async with aclosing(stream) as chunks:
        async for chunk in chunks:
            yield 0, chunk


async def collect(chunks: Numbered, prompts: int, n: int) -> list[list[Outcome]]:
    """Everything said, by prompt and sample."""
    outcomes = [[Outcome() for _ in range(n)] for _ in range(prompts)]
    async with aclosing(chunks):
        async for prompt, chunk in chunks:
            outcomes[prompt][chunk.index].add(chunk)
    return outcomes


async def until_gone(request: Request, work: Awaitable[T]) -> T:
    """The work's result; cancels it and raises ClientGoneError as soon as the client closes the connection."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(disconnected(request.receive))
    try:
        ends: set[asyncio.Future[Any]] = {working, gone}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        gone.cancel()
        working.cancel()
        await asyncio.gather(gone, working, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def event_stream(
    request: Request, chunks: Numbered, events: Events, *, media_type: str = "text/event-stream"
) -> Response:
    """Waits for the first tokens, so that a request that is refused gets a status of its own, then streams."""
    body = encode(request, chunks, events)
    try:
        first = await until_gone(request, anext(body))
    except BaseException:
        await body.aclose()
        raise
    return EventStream(first, body, media_type=media_type)


async def encode(request: Request, chunks: Numbered, events: Events) -> AsyncGenerator[bytes, None]:
    """Event bytes; a failure after the first of them becomes the last event."""
    begun = False
    async with aclosing(chunks):
        try:
            async for prompt, chunk in chunks:
                if event := events.event(chunk, prompt):
                    yield event
                    begun = True
        except Exception as error:
            if not begun:
                raise
            note_broken_stream(request.scope, error)
            yield events.error(error)
            return
    yield events.end()


class EventStream(Response):
    """Holds at most one event. While the client does not read, nothing is taken from the backend, which bounds the rest."""

    def __init__(
        self,
        first: bytes,
        rest: AsyncGenerator[bytes, None],
        *,
        media_type: str = "text/event-stream",
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}, media_type=media_type)
        del self.headers["content-length"]
        self._first, self._rest = first, rest
        self._stall_seconds = stall_seconds
        self._sends, self._sending = 0, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pump = asyncio.create_task(self._pump(send))
        gone = asyncio.create_task(disconnected(receive))
        cut = asyncio.create_task(self._stalled())
        try:
            await asyncio.wait({pump, gone, cut}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
        finally:
            for task in (pump, gone, cut):
                task.cancel()
            await asyncio.gather(pump, gone, cut, return_exceptions=True)
            await self._rest.aclose()

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._write(send, self._first)
        async for event in self._rest:
            await self._write(send, event)
        await send({"type": "http.response.body", "body": b""})

    async def _write(self, send: Send, event: bytes) -> None:
        self._sending = True
        await send({"type": "http.response.body", "body": event, "more_body": True})
        self._sending = False
        self._sends += 1

    async def _stalled(self) -> None:
        """Returns when one event could not be handed to the socket for long: the client keeps it open and does not read."""
        sends = -1
        while not (self._sending and self._sends == sends):
            sends = self._sends
            await asyncio.sleep(self._stall_seconds)
