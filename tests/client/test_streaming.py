"""Streams that are merged, stalled or left: nothing hangs and every generator is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message

from ingot.client.inbox import Inbox
from ingot.client.openai.streaming import EventStream, merge
from ingot.errors import ExecutorDiedError, RequestError
from ingot.runtime.request import Chunk

CLOSED: list[str] = []


async def stream(name: str, count: int, *, error: Exception | None = None) -> AsyncGenerator[Chunk, None]:
    try:
        for step in range(count):
            await asyncio.sleep(0)
            yield Chunk(index=0, text=f"{name}{step}", token_ids=[step])
        if error is not None:
            raise error
    finally:
        CLOSED.append(name)


async def test_merged_streams_keep_their_own_order() -> None:
    texts: dict[int, str] = {0: "", 1: "", 2: ""}
    async for number, chunk in merge([stream("a", 3), stream("b", 1), stream("c", 0)]):
        texts[number] += chunk.text
    assert texts == {0: "a0a1a2", 1: "b0", 2: ""}


async def test_one_failure_ends_all_streams() -> None:
    CLOSED.clear()
    with pytest.raises(ExecutorDiedError):
        async for _ in merge([stream("a", 10**9), stream("b", 2, error=ExecutorDiedError("Gone.", mend="Wait."))]):
            pass
    assert sorted(CLOSED) == ["a", "b"]


async def test_leaving_a_merge_closes_its_streams() -> None:
    CLOSED.clear()
    merged = merge([stream("a", 10**9), stream("b", 10**9)])
    await anext(merged)
    await merged.aclose()
    assert sorted(CLOSED) == ["a", "b"]


async def test_a_socket_that_takes_nothing_is_cut() -> None:
    CLOSED.clear()

    async def events() -> AsyncGenerator[bytes, None]:
        async for chunk in stream("a", 10**9):
            yield chunk.text.encode()

    async def receive() -> Message:
        await asyncio.sleep(3600)
        raise AssertionError

    taken: list[Message] = []

    async def send(message: Message) -> None:
        taken.append(message)
        if len(taken) > 3:
            await asyncio.sleep(3600)

    rest = events()
    async with asyncio.timeout(5):
        await EventStream(await anext(rest), rest, stall_seconds=0.02)({"type": "http"}, receive, send)
    assert len(taken) == 4


async def test_an_inbox_that_nobody_reads_stays_bounded() -> None:
    inbox = Inbox(limit=10)
    chunk = Chunk(index=0, text="x", token_ids=[1])
    for _ in range(10):
        inbox.put([chunk])
    assert not inbox.failed
    inbox.put([chunk])
    assert inbox.failed
    with pytest.raises(RequestError, match="fell 10 chunks behind"):
        await inbox.get()


async def test_an_inbox_gives_what_it_has_before_its_end() -> None:
    inbox = Inbox()
    inbox.put([Chunk(index=0, text="x", token_ids=[1])])
    inbox.end()
    first, second = await inbox.get(), await inbox.get()
    assert first is not None
    assert first.text == "x"
    assert second is None
