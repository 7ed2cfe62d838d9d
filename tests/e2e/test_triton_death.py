"""A model's process is killed while it serves: nobody waits for ever, and it comes back by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from pathlib import Path

from tests.e2e.triton import options_of, processes, put_version, triton
from tests.engines import NAME, write_engine

from ingot.client.grpc_async import AsyncClient
from ingot.client.triton_backend import TritonBackend, TritonOptions
from ingot.client.triton_keeper import Keeper
from ingot.client.triton_process import TritonServer
from ingot.errors import IngotError
from ingot.runtime.params import SamplingParams
from ingot.runtime.request import GenerateRequest, Prompt

STREAMS = 16
END_SECONDS = 2.0  # by when open streams must have ended, on a machine with time to spare
PATIENCE = 120.0  # after which it is not coming back
LOADED_MACHINE = 3.0  # times as long where tests run beside other work


async def ask(backend: TritonBackend, name: str) -> str:
    params = SamplingParams(max_tokens=480, ignore_eos=True)
    request = GenerateRequest(request_id=name, model=NAME, prompt=Prompt(text="hello"), params=params)
    try:
        return [chunk.finish_reason or "" async for chunk in backend.generate(request)][-1]
    except IngotError as error:
        return error.code


async def until_health(backend: TritonBackend, ready: bool) -> float:
    """The moment it is so."""
    began = time.monotonic()
    while (await backend.health()).ready is not ready:
        assert time.monotonic() - began < PATIENCE
        await asyncio.sleep(0.02)
    return time.monotonic()


async def kill_under_load(server: TritonServer) -> None:
    backend = TritonBackend(TritonOptions(address=server.grpc_address, client=options_of()))
    await backend.start()
    async with AsyncClient(server.grpc_address, options_of()) as friend:
        keeper = Keeper(friend, server)
        keeping = asyncio.create_task(keeper.run())
        running = [asyncio.create_task(ask(backend, f"a{i}")) for i in range(STREAMS)]
        await asyncio.sleep(0.5)
        falling = asyncio.create_task(until_health(backend, False))
        (victim,) = processes(server, NAME)
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        ends = Counter(await asyncio.wait_for(asyncio.gather(*running), 60))
        ended = time.monotonic() - killed
        down = await falling - killed
        back = await until_health(backend, True) - killed
        assert await ask(backend, "again") == "length"
        assert server.pid is not None
        restarts = keeper.restarts
        os.kill(server.pid, signal.SIGKILL)  # and now the whole server, which may be back before a look at its health
        while keeper.restarts == restarts:
            assert time.monotonic() - killed < PATIENCE
            await asyncio.sleep(0.02)
        await until_health(backend, True)
        assert await ask(backend, "once more") == "length"
        keeping.cancel()
        await backend.stop(0)
    print(f"{keeper.reloads[NAME]} reloads of the model, {keeper.restarts} restarts of the server")
    print(f"{dict(ends)} within {ended:.2f} s; /health false after {down:.2f} s, true again after {back:.2f} s")
    assert sum(ends.values()) == STREAMS
    assert set(ends) <= {"executor_died", "unavailable"}  # the second where the server fell with the model
    assert ended < END_SECONDS * LOADED_MACHINE
    assert keeper.reloads[NAME] + keeper.restarts >= 2


def test_a_killed_model_ends_its_streams_and_comes_back(tmp_path: Path) -> None:
    put_version(tmp_path / "repository", NAME, 1, write_engine(tmp_path / "fake", step_seconds=0.01))
    with triton(tmp_path / "repository") as server:
        asyncio.run(kill_under_load(server))
        assert server.running()
