"""The client library against a gRPC server that plays Triton, and misbehaves on request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.client.fake_triton import FakeTriton

from ingot.client import AsyncClient, Client, ClientOptions, Prompt, SamplingParams
from ingot.client.grpc_wire import as_prompt
from ingot.errors import DeadlineError, ExecutorDiedError, QueueFullError, RequestError, UnavailableError

FAST = ClientOptions(timeout=20, retries=3, backoff=0.01, drain=0.3)


@pytest.fixture
def triton() -> Iterator[FakeTriton]:
    with FakeTriton() as triton:
        yield triton


@pytest.fixture
def client(triton: FakeTriton) -> Iterator[Client]:
    with Client(triton.address, FAST) as client:
        yield client


def test_a_failure_before_the_first_chunk_is_tried_again(triton: FakeTriton, client: Client) -> None:
    triton.failures = [QueueFullError("full", mend="Wait."), UnavailableError("not yet", mend="Wait.")]
    assert client.generate("tiny", "abc")[0].text == "ABC"
    assert triton.calls == 3


def test_a_failure_after_the_first_chunk_is_not(triton: FakeTriton, client: Client) -> None:
    triton.failures, triton.fail_after = [UnavailableError("lost", mend="Again.")], 1
    with client.stream("tiny", "abc") as stream, pytest.raises(UnavailableError):
        list(stream)
    assert triton.calls == 1


def test_a_mistake_is_not_tried_again(triton: FakeTriton, client: Client) -> None:
    triton.failures = [RequestError("bad", mend="Mend.", param="stop")]
    with pytest.raises(RequestError) as caught:
        client.generate("tiny", "abc")
    assert (caught.value.param, triton.calls) == ("stop", 1)


def test_tries_come_to_an_end(triton: FakeTriton, client: Client) -> None:
    triton.failures = [QueueFullError("full", mend="Wait.")] * 9
    with pytest.raises(QueueFullError):
        client.generate("tiny", "abc")
    assert triton.calls == 4


def test_a_cancelled_stream_is_aborted_in_band_and_never_cut(triton: FakeTriton, client: Client) -> None:
    triton.endless = True
    with client.stream("tiny", "abc") as stream:
        next(iter(stream))
    assert (triton.aborts, triton.cuts) == (1, 0)


def test_a_stream_that_ignores_its_abort_is_cut_in_the_end(triton: FakeTriton, client: Client) -> None:
    triton.endless = triton.deaf = True
    with client.stream("tiny", "abc") as stream:
        next(iter(stream))
    triton.wait_for_cut()
    assert (triton.aborts, triton.cuts) == (1, 1)


def test_a_deadline_aborts(triton: FakeTriton, client: Client) -> None:
    triton.endless = True
    with pytest.raises(DeadlineError):
        client.generate("tiny", "abc", timeout=0.2)
    assert (triton.aborts, triton.cuts) == (1, 0)


def test_silence_of_a_dead_process_is_noticed(triton: FakeTriton, client: Client) -> None:
    triton.dead = True
    with pytest.raises(ExecutorDiedError):
        Client(triton.address, ClientOptions(retries=0, timeout=20, drain=0.3)).generate("tiny", "abc")


def test_many_threads_share_a_client(client: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: client.generate("tiny", f"text {i}")[0].text, range(40)))
    assert found == [f"TEXT {i}" for i in range(40)]


def test_another_thread_may_cancel(triton: FakeTriton, client: Client) -> None:
    triton.endless = True
    with client.stream("tiny", "abc") as stream:
        threading.Timer(0.1, stream.cancel).start()
        assert list(stream)[-1].finish_reason == "abort"


async def test_asyncio_keeps_the_same_promises(triton: FakeTriton) -> None:
    async with AsyncClient(triton.address, FAST) as client:
        triton.failures = [QueueFullError("full", mend="Wait.")]
        assert (await client.generate("tiny", "abc"))[0].text == "ABC"
        triton.endless = True
        async with client.stream("tiny", "abc") as stream:
            await stream.next_reply()
        with pytest.raises(DeadlineError):
            await client.generate("tiny", "abc", timeout=0.2)
        task = asyncio.create_task(client.generate("tiny", "abc"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (triton.aborts, triton.cuts) == (3, 0)
        triton.dead = True
        with pytest.raises(ExecutorDiedError):
            await client.generate("tiny", "abc")


def test_nobody_there(triton: FakeTriton) -> None:
    with Client("127.0.0.1:9", ClientOptions(retries=1, backoff=0.01)) as client:
        with pytest.raises(UnavailableError, match="cannot be reached"):
            client.generate("tiny", "abc", SamplingParams())
        assert not client.health()


def test_prompts_in_every_form() -> None:
    assert as_prompt("a") == Prompt(text="a")
    assert as_prompt([1, 2]) == Prompt(token_ids=[1, 2])
    assert as_prompt([{"role": "user", "content": "a"}]).messages is not None
    with pytest.raises(RequestError):
        as_prompt([1, "a"])  # type: ignore[list-item]
