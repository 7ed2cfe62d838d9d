"""What Triton refuses by itself, between the answers of a model: it must not fall, and nobody's stream may end early."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from tests.e2e.triton import options_of, put_version, triton
from tests.engines import NAME, write_engine

from ingot.client import AsyncClient, SamplingParams, triton_backend
from ingot.client.triton_backend import TritonBackend, TritonOptions
from ingot.client.triton_process import TritonServer
from ingot.errors import UnknownModelError

STREAMS = 32
REFUSALS = 300
LONG = SamplingParams(max_tokens=400, ignore_eos=True)


async def refusals_between_answers(server: TritonServer) -> list[int]:
    async def count_tokens(number: int) -> int:
        stream = friend.stream(NAME, f"stream {number}", LONG)
        async with stream:
            return sum([len(chunk.token_ids) async for chunk in stream])

    async with AsyncClient(server.grpc_address, options_of()) as friend:
        streams = [asyncio.create_task(count_tokens(number)) for number in range(STREAMS)]
        asked = [friend.describe("nobody") for _ in range(REFUSALS)]
        refused = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(one, UnknownModelError) for one in refused)
        return await asyncio.gather(*streams)


def test_refusals_leave_streams_and_server_alone(tmp_path: Path) -> None:
    put_version(tmp_path / "repository", NAME, 1, write_engine(tmp_path / "fake", step_seconds=0.001, num_pages=2048))
    with triton(tmp_path / "repository") as server:
        assert asyncio.run(refusals_between_answers(server)) == [LONG.max_tokens] * STREAMS
        assert server.running()


async def unload_beside_a_front(server: TritonServer) -> list[list[str]]:
    backend = TritonBackend(TritonOptions(address=server.grpc_address, client=options_of()))
    async with AsyncClient(server.grpc_address, options_of()) as friend:
        await backend.start()
        names = [[card.name for card in await backend.models()]]
        await friend.unload("passing")
        deadline = time.monotonic() + 30
        while len(await backend.models()) > 1 or not (await backend.health()).ready:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        names.append([card.name for card in await backend.models()])
        await backend.stop(0)
        await backend.start()  # a front that comes later finds what is loaded
        names.append([card.name for card in await backend.models()])
        await backend.stop(0)
    return names


def test_a_model_that_was_unloaded_is_none_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_backend, "FORGET_SECONDS", 0.5)
    engine = write_engine(tmp_path / "fake")
    for name in (NAME, "passing"):
        put_version(tmp_path / "repository", name, 1, engine)
    with triton(tmp_path / "repository") as server:
        assert asyncio.run(unload_beside_a_front(server)) == [[NAME, "passing"], [NAME], [NAME]]
