"""A model's process is killed while it serves: nobody waits for ever, and it comes back by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
from tests.e2e.triton import ADMIN_KEY, options_of, processes, put_version, triton
from tests.engines import NAME, worker_path, write_engine
from tests.waiting import until

from ingot.client.grpc_async import AsyncClient
from ingot.client.triton_backend import SERVING, TritonBackend, TritonOptions
from ingot.client.triton_keeper import Keeper
from ingot.client.triton_process import TritonServer, children_of, command_line, free_ports
from ingot.errors import IngotError
from ingot.runtime.params import SamplingParams
from ingot.runtime.request import GenerateRequest, Prompt

STREAMS = 16
OTHER = "other"
LONG, SHORT = 480, 40  # tokens: the first run for as long as the test needs them
END_SECONDS = 2.0  # by when open streams must have ended, on a machine with time to spare
PATIENCE = 120.0  # after which it is not coming back
MOST_DEATHS = 6  # of two that we cause: more is no recovery
LOADED_MACHINE = 3.0  # times as long where tests run beside other work


async def ask(backend: TritonBackend, name: str, begun: asyncio.Event | None = None, *, max_tokens: int = SHORT) -> str:
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    request = GenerateRequest(request_id=name, model=NAME, prompt=Prompt(text="hello"), params=params)
    last = ""
    try:
        async for chunk in backend.generate(request):
            last = chunk.finish_reason or ""
            if begun is not None:
                begun.set()
    except IngotError as error:
        return error.code
    return last


async def until_health(backend: TritonBackend, ready: bool) -> float:
    """The moment it is so."""
    began = time.monotonic()
    while (await backend.health()).ready is not ready:
        assert time.monotonic() - began < PATIENCE
        await asyncio.sleep(0.02)
    return time.monotonic()


async def served_again(backend: TritonBackend, keeper: Keeper, deaths: int) -> int:
    """Asks until answered whole; only another death excuses a failure. How many deaths there have been by then.

    Triton may fall after the model whose process was killed, even when both seem to be back.
    """
    while True:
        await until_health(backend, True)
        asking = asyncio.create_task(ask(backend, "again"))
        end = await asyncio.wait_for(asking, PATIENCE)
        seen = keeper.restarts + keeper.reloads[NAME]
        if end == "length":
            return seen
        began = time.monotonic()
        while keeper.restarts + keeper.reloads[NAME] <= deaths:
            assert time.monotonic() - began < END_SECONDS * LOADED_MACHINE, f"{end!r} though nothing died"
            await asyncio.sleep(0.02)
        deaths = keeper.restarts + keeper.reloads[NAME]
        assert deaths <= MOST_DEATHS


async def kill_under_load(server: TritonServer) -> None:
    backend = TritonBackend(
        TritonOptions(address=server.grpc_address, client=msgspec.structs.replace(SERVING, admin_key=ADMIN_KEY))
    )
    await backend.start()
    async with AsyncClient(server.grpc_address, options_of()) as friend:
        keeper = Keeper(friend, server)
        keeping = asyncio.create_task(keeper.run())
        begun = [asyncio.Event() for _ in range(STREAMS)]
        running = [asyncio.create_task(ask(backend, f"a{i}", event, max_tokens=LONG)) for i, event in enumerate(begun)]
        await asyncio.wait_for(asyncio.gather(*(event.wait() for event in begun)), PATIENCE)
        falling = asyncio.create_task(until_health(backend, False))
        (victim,) = processes(server, NAME)
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        late = [asyncio.create_task(ask(backend, f"late {i}")) for i in range(STREAMS)]
        ends = Counter(await asyncio.wait_for(asyncio.gather(*running), PATIENCE))
        ended = time.monotonic() - killed
        down = await falling - killed
        back = await until_health(backend, True) - killed
        waited = Counter(await asyncio.wait_for(asyncio.gather(*late), PATIENCE))
        deaths = await served_again(backend, keeper, keeper.restarts + keeper.reloads[NAME])
        assert deaths >= 1
        restarts = keeper.restarts
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)  # and now the whole server, which may be back before a look at its health
        while keeper.restarts == restarts:
            assert time.monotonic() - killed < PATIENCE
            await asyncio.sleep(0.02)
        await served_again(backend, keeper, deaths + 1)
        keeping.cancel()
        await backend.stop(0)
    print(f"{keeper.reloads[NAME]} reloads of the model, {keeper.restarts} restarts of the server")
    print(f"{dict(ends)} within {ended:.2f} s; /health false after {down:.2f} s, true again after {back:.2f} s")
    print(f"requests sent right after the kill: {dict(waited)}")
    assert sum(ends.values()) == STREAMS
    assert set(ends) <= {"executor_died", "unavailable"}  # the second where the server fell with the model
    assert ended < END_SECONDS * LOADED_MACHINE


def test_a_killed_model_ends_its_streams_and_comes_back(tmp_path: Path) -> None:
    put_version(tmp_path / "repository", NAME, 1, write_engine(tmp_path / "fake", step_seconds=0.01, num_pages=2048))
    with triton(tmp_path / "repository") as server:
        asyncio.run(kill_under_load(server))
        assert server.running()


async def kill_one_of_two(server: TritonServer) -> None:
    params = SamplingParams(max_tokens=SHORT, ignore_eos=True)
    patient = msgspec.structs.replace(options_of(), outage=PATIENCE, timeout=PATIENCE)
    async with AsyncClient(server.grpc_address, patient) as friend:
        keeper = Keeper(friend, server)
        keeping = asyncio.create_task(keeper.run())
        assert len(await friend.generate(NAME, "hello", params)) == 1
        stop = asyncio.Event()
        other = asyncio.create_task(answers(friend, stop))
        (victim,) = processes(server, NAME)
        os.kill(victim, signal.SIGKILL)
        (one,) = await friend.generate(NAME, "hello", params)
        assert one.finish_reason == "length"
        stop.set()
        ends = await other
        keeping.cancel()
    print(f"{keeper.reloads[NAME]} reloads of the model, {keeper.restarts} restarts of the server, beside it: {ends}")
    assert keeper.reloads[NAME] + keeper.restarts >= 1
    assert set(ends) == {"length"} or keeper.restarts, "the other model goes on, unless Triton itself has fallen"


async def answers(client: AsyncClient, stop: asyncio.Event) -> Counter[str]:
    """How the requests to the other model end, one after the other."""
    ends: Counter[str] = Counter()
    while not stop.is_set():
        try:
            (one,) = await client.generate(OTHER, "hello", SamplingParams(max_tokens=SHORT, ignore_eos=True))
            ends[one.finish_reason] += 1
        except IngotError as error:
            ends[error.code] += 1
    return ends


def test_a_killed_model_is_loaded_again_while_others_serve(tmp_path: Path) -> None:
    for name in (NAME, OTHER):
        put_version(
            tmp_path / "repository",
            name,
            1,
            write_engine(tmp_path / name, step_seconds=0.01, name=name, num_pages=2048),
        )
    with triton(tmp_path / "repository") as server:
        asyncio.run(kill_one_of_two(server))


def test_killing_the_keeper_leaves_no_process(tmp_path: Path) -> None:
    put_version(tmp_path / "repository", NAME, 1, write_engine(tmp_path / "fake"))
    http, grpc, metrics = free_ports(3)
    ports = ["--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics)]
    command = [sys.executable, "-m", "ingot.cli", "triton", "--repository", str(tmp_path / "repository"), *ports]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": worker_path()}, stderr=subprocess.PIPE) as keeper:
        assert keeper.stderr is not None
        assert any(b"READY" in line for line in keeper.stderr)
        (guard,) = children_of(keeper.pid)
        (server,) = children_of(guard)
        (model,) = children_of(server)
        assert "tritonserver" in command_line(server)
        assert f"/{NAME}/1/model.py" in command_line(model)
        keeper.kill()
        for pid in (guard, server, model):
            until(lambda pid=pid: not command_line(pid))  # type: ignore[misc]
