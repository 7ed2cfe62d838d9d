"""The executor's process and its keeper, with an executor that has no model."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from asyncio.unix_events import ThreadedChildWatcher
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.fake_executor import CRASH, FOREVER, HANG, REFUSE, SLOW
from tests.waiting import until_async

from ingot.errors import EngineError, ExecutorDiedError, IngotError, UnavailableError
from ingot.runtime.messages import Abort, FromExecutor, RequestFailed, Stats, TokenChunk, TokenRequest
from ingot.runtime.params import SamplingParams
from ingot.runtime.supervisor import Supervisor, SupervisorOptions

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = SupervisorOptions(loader="tests.fake_executor:load", first_backoff=0.05)


@dataclass
class Heard:
    """What a supervisor told its owner."""

    messages: list[FromExecutor] = field(default_factory=list)
    deaths: list[IngotError] = field(default_factory=list)

    def take(self, messages: Sequence[FromExecutor]) -> None:
        self.messages += messages

    def tokens(self, request_id: str) -> list[TokenChunk]:
        return [one for one in self.messages if isinstance(one, TokenChunk) and one.request_id == request_id]


@asynccontextmanager
async def supervised(
    options: SupervisorOptions = OPTIONS, engine: str = "engine"
) -> AsyncIterator[tuple[Supervisor, Heard]]:
    heard = Heard()
    supervisor = Supervisor(Path(engine), on_messages=heard.take, on_down=heard.deaths.append, options=options)
    await supervisor.start()
    try:
        yield supervisor, heard
    finally:
        await supervisor.stop()


@pytest.fixture(autouse=True)
def _worker_finds_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def request(request_id: str, *token_ids: int, max_tokens: int = FOREVER, n: int = 1) -> TokenRequest:
    return TokenRequest(
        request_id=request_id, token_ids=[*token_ids], params=SamplingParams(max_tokens=max_tokens, n=n)
    )


async def test_tokens_come_back_and_an_abort_frees_the_pages() -> None:
    async with supervised() as (supervisor, heard):
        supervisor.send(request("a", 1, 2, max_tokens=3))
        supervisor.send(request("b", SLOW, 7, n=2))
        supervisor.send(request("c", REFUSE))
        await until_async(lambda: len(heard.tokens("a")) == 3 and len(heard.tokens("b")) > 4)
        assert [chunk.token_ids for chunk in heard.tokens("a")] == [[1], [2], [1]]
        assert any(isinstance(one, RequestFailed) and one.code == "capacity" for one in heard.messages)
        supervisor.send(Abort(request_id="b"))
        await until_async(lambda: [chunk.finish_reason for chunk in heard.tokens("b")].count("abort") == 2)
        await until_async(lambda: supervisor.stats is not None and supervisor.stats.pages_held == 0)


async def test_an_idle_executor_beats_and_sleeps() -> None:
    async with supervised() as (supervisor, heard):
        assert supervisor.pid is not None
        process = psutil.Process(supervisor.pid)
        await asyncio.sleep(0.1)
        before, beats = process.cpu_times().user, len(heard.messages)
        await until_async(lambda: len(heard.messages) >= beats + 3)
        assert process.cpu_times().user - before <= 0.05


async def test_the_heart_beats_through_a_long_step() -> None:
    async with supervised() as (supervisor, heard):
        supervisor.send(request("a", HANG))
        await asyncio.sleep(0.1)
        beats = sum(isinstance(one, Stats) for one in heard.messages)
        await until_async(lambda: sum(isinstance(one, Stats) for one in heard.messages) >= beats + 2)
        assert supervisor.ready


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
async def test_death_is_noticed_at_once_and_mended(how: signal.Signals) -> None:
    async with supervised() as (supervisor, heard):
        assert supervisor.pid is not None
        dead = supervisor.pid
        os.kill(dead, how)
        assert await until_async(lambda: heard.deaths) < OPTIONS.heartbeat_timeout / 2  # nobody waits for a heartbeat
        assert not supervisor.ready
        assert isinstance(heard.deaths[0], ExecutorDiedError)
        assert f"signal {how.value}" in str(heard.deaths[0])
        with pytest.raises(UnavailableError, match="not ready"):
            supervisor.send(request("a", 1))
        await until_async(lambda: supervisor.ready)
        assert supervisor.pid != dead
        supervisor.send(request("a", 5, max_tokens=1))
        await until_async(lambda: heard.tokens("a"))


async def test_how_it_died_is_known_however_late_its_status_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read = ThreadedChildWatcher._do_waitpid  # type: ignore[attr-defined]

    def late(watcher: Any, loop: Any, pid: int, *args: Any) -> None:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        time.sleep(0.3)
        read(watcher, loop, pid, *args)

    monkeypatch.setattr(ThreadedChildWatcher, "_do_waitpid", late)
    async with supervised() as (supervisor, heard):
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        await until_async(lambda: heard.deaths)
        assert "signal 9" in str(heard.deaths[0])


async def test_signals_to_the_group_are_the_parents_to_answer() -> None:
    async with supervised() as (supervisor, heard):
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGTERM)
        os.kill(supervisor.pid, signal.SIGINT)
        supervisor.send(request("a", 5, max_tokens=1))
        await until_async(lambda: heard.tokens("a"))
        assert not heard.deaths


async def test_a_step_that_raises_says_so_and_the_executor_comes_back() -> None:
    async with supervised() as (supervisor, heard):
        supervisor.send(request("a", CRASH))
        await until_async(lambda: heard.deaths)
        assert "RuntimeError" in str(heard.deaths[0])
        await until_async(lambda: supervisor.ready)


async def test_a_hung_step_is_killed() -> None:
    async with supervised(replace(OPTIONS, step_timeout=0.9)) as (supervisor, heard):
        supervisor.send(request("hang", HANG))
        await until_async(lambda: heard.deaths)
        assert "a step took more than" in str(heard.deaths[0])


async def test_a_silent_process_is_killed() -> None:
    async with supervised(replace(OPTIONS, heartbeat_timeout=1.0)) as (supervisor, heard):
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGSTOP)
        await until_async(lambda: heard.deaths)
        assert "sent nothing" in str(heard.deaths[0])
        await until_async(lambda: supervisor.ready)


async def test_an_engine_that_does_not_load_fails_the_start_with_its_own_words() -> None:
    with pytest.raises(EngineError, match=r"This engine is broken\. Build it again\."):
        async with supervised(engine="broken"):
            pass


async def test_the_executor_ends_with_its_parent() -> None:
    async with supervised() as (supervisor, _):
        assert supervisor.pid is not None
        process = psutil.Process(supervisor.pid)
    assert not process.is_running()
