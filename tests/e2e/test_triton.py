"""A rendered repository in the real tritonserver, driven by the client library."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from tests.e2e.triton import FAILING_LOADER, client_of, options_of, processes, put_version, triton
from tests.engines import PAGES, write_engine
from tests.waiting import until
from tritonclient.grpc import service_pb2_grpc

from ingot.client import AsyncClient, Client, Prompt, SamplingParams
from ingot.client.grpc_wire import infer_request
from ingot.client.triton_process import TritonServer
from ingot.errors import (
    DeadlineError,
    EngineError,
    ExecutorDiedError,
    RequestError,
    UnavailableError,
    UnknownModelError,
)
from ingot.manifest import read_manifest
from ingot.runtime.calls import Generate
from ingot.runtime.request import GenerateRequest

LONG = SamplingParams(max_tokens=400, ignore_eos=True, seed=1)
SHORT = SamplingParams(max_tokens=20, ignore_eos=True, seed=1)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repository")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engine(tmp_path_factory.mktemp("engines") / "fake", step_seconds=0.004, max_num_seqs=64)


@pytest.fixture(scope="module")
def server(repository: Path, engine: Path) -> Iterator[TritonServer]:
    put_version(repository, "fake", 1, engine)
    with triton(repository) as server:
        yield server


@pytest.fixture
def client(server: TritonServer) -> Iterator[Client]:
    with client_of(server) as client:
        yield client
        assert held(client) == 0, "pages are still held"


def held(client: Client, model: str = "fake") -> int:
    stats = client.describe(model).stats
    assert stats.pages_free + stats.pages_cached + stats.pages_held == PAGES
    return stats.pages_held


def post(server: TritonServer, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"http://{server.options.host}:{server.options.http_port}{path}", json=body, timeout=20)


def test_a_stream_is_the_whole_answer_in_pieces(client: Client) -> None:
    (whole,) = client.generate("fake", "hello", SHORT)
    with client.stream("fake", "hello", SHORT) as stream:
        chunks = list(stream)
    assert len(chunks) > 1
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [token for chunk in chunks for token in chunk.token_ids] == whole.token_ids
    assert whole.finish_reason == "length"
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (5, 20)


def test_every_form_of_prompt_is_taken(client: Client) -> None:
    ids = client.tokenize("fake", "hello")
    assert client.detokenize("fake", ids) == "hello"
    assert client.generate("fake", ids, SHORT)[0].text == client.generate("fake", "hello", SHORT)[0].text
    chat = client.generate("fake", [{"role": "user", "content": "hi"}], SHORT)
    rendered = client.tokenize("fake", [{"role": "user", "content": "hi"}])
    assert chat[0].text == client.generate("fake", rendered, SHORT)[0].text


def test_logprobs_and_samples_come_through(client: Client) -> None:
    params = SamplingParams(max_tokens=5, n=3, logprobs=1, prompt_logprobs=1, ignore_eos=True, seed=7)
    found = client.generate("fake", "hello", params)
    assert [one.index for one in found] == [0, 1, 2]
    for one in found:
        assert one.logprobs is not None
        assert [entry.token_id for entry in one.logprobs] == one.token_ids
        assert one.prompt_logprobs is not None
        assert len(one.prompt_logprobs) == 5


def test_errors_are_typed_and_say_the_mend(client: Client, server: TritonServer) -> None:
    with pytest.raises(RequestError, match="max_tokens") as caught:
        client.generate("fake", "hello", SamplingParams(max_tokens=0))
    assert (caught.value.param, bool(caught.value.mend)) == ("max_tokens", True)
    with pytest.raises(UnknownModelError):
        client.generate("nobody", "hello")
    with Client(server.grpc_address) as stranger, pytest.raises(RequestError, match="key"):
        stranger.unload("fake")
    assert post(server, "/v2/repository/models/fake/unload", {}).status_code == 403


def test_plain_triton_clients_are_answered(client: Client, server: TritonServer) -> None:
    """The tensors that Triton's own OpenAI front end sends and reads."""
    fields = {"text_input": "hello", "max_tokens": 20, "seed": 1, "temperature": 1.0, "stop_words": ["~~~"]}
    reply = post(server, "/v2/models/fake/generate", fields).json()
    assert reply["text_output"] == client.generate("fake", "hello", SHORT)[0].text
    assert (reply["num_input_tokens"], reply["num_output_tokens"], reply["finish_reason"]) == (5, 20, "length")
    lines = post(server, "/v2/models/fake/generate_stream", fields | {"stream": True}).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert len(events) > 1
    assert "".join(event["text_output"] for event in events) == reply["text_output"]
    refused = post(server, "/v2/models/fake/generate", {"text_input": "hello", "max_tokens": 0})
    assert (refused.status_code, "invalid_request(max_tokens)" in refused.text) == (400, True)


def test_64_streams_at_once_say_what_each_says_alone(client: Client, server: TritonServer) -> None:
    (alone,) = client.generate("fake", "number 7", SHORT)

    async def crowd() -> list[str]:
        async with AsyncClient(server.grpc_address) as friend:
            found = await asyncio.gather(*(friend.generate("fake", f"number {i}", SHORT) for i in range(64)))
            return [one.text for (one,) in found]

    texts = asyncio.run(crowd())
    assert texts[7] == alone.text
    assert len(set(texts)) == 64


def test_200_cancellations_leave_nothing_behind(client: Client, server: TritonServer) -> None:
    async def leave(friend: AsyncClient, number: int) -> None:
        wanted, seen = (0, 1, 7)[number % 3], 0
        async with friend.stream("fake", f"number {number}", LONG) as stream:
            while seen < wanted and await stream.next_reply() is not None:
                seen += 1

    async def storm() -> None:
        async with AsyncClient(server.grpc_address) as friend:
            for start in range(0, 200, 20):
                await asyncio.gather(*(leave(friend, start + i) for i in range(20)))

    asyncio.run(storm())
    until(lambda: held(client) == 0)
    stats = client.describe("fake").stats
    assert (stats.running, stats.waiting) == (0, 0)
    assert client.generate("fake", "hello", SHORT)[0].finish_reason == "length"


def test_cancelling_after_the_end_is_safe(client: Client) -> None:
    for _ in range(20):
        with client.stream("fake", "hello", SamplingParams(max_tokens=2, ignore_eos=True)) as stream:
            assert list(stream)[-1].finish_reason == "length"
            stream.cancel()
    with client.stream("fake", "hello", LONG) as stream:
        chunks = iter(stream)
        next(chunks)
        stream.cancel()
        assert list(chunks)[-1].finish_reason == "abort"


def test_a_client_that_vanishes_is_noticed(client: Client, server: TritonServer) -> None:
    """As when its process is killed: the stream is cut from outside, in the middle."""
    call = Generate(request=GenerateRequest(request_id="gone", model="fake", prompt=Prompt(text="hello"), params=LONG))
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        replies = stub.ModelStreamInfer(iter([infer_request("fake", "", call, "gone")]))
        for _ in range(3):
            next(replies)
        replies.cancel()
    until(lambda: held(client) == 0, 5)
    tokens = client.describe("fake").stats.generation_tokens
    assert client.describe("fake").stats.generation_tokens == tokens


def test_a_shared_stream_that_is_cut_frees_all_of_its_requests(client: Client, server: TritonServer) -> None:
    asked = [GenerateRequest(request_id=f"{i}", model="fake", prompt=Prompt(text="a"), params=LONG) for i in range(8)]
    sent = [infer_request("fake", "", Generate(request=one, link="x"), one.request_id) for one in asked]
    with grpc.insecure_channel(server.grpc_address) as channel:
        replies = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(sent))
        next(replies)
        replies.cancel()
    until(lambda: held(client) == 0, 5)


def test_a_deadline_ends_the_request_on_the_server_too(client: Client) -> None:
    with pytest.raises(DeadlineError):
        client.generate("fake", "hello", LONG, timeout=0.3)
    until(lambda: held(client) == 0, 3)


def test_our_metrics_are_on_tritons_port(client: Client, server: TritonServer) -> None:
    client.generate("fake", "hello", SHORT)

    def figure(name: str) -> float:
        line = next(line for line in server.metrics().splitlines() if line.startswith(f'{name}{{model="fake"'))
        return float(line.rsplit(" ", 1)[1])

    before = figure("ingot_generation_tokens_total")
    until(lambda: figure("ingot_generation_tokens_total") >= max(before, 20))
    assert figure("ingot_pages_total") == PAGES
    assert figure("ingot_time_to_first_token_seconds_count") > 0


def test_a_failing_step_ends_streams_with_an_error(client: Client, repository: Path, engine: Path) -> None:
    put_version(repository, "failing", 1, engine, FAILING_LOADER)
    client.load("failing")
    seen: list[str] = []
    with (
        client.stream("failing", "hello", LONG) as stream,
        pytest.raises(ExecutorDiedError, match="the device is lost"),
    ):
        seen.extend(chunk.text for chunk in stream)
    assert seen
    with pytest.raises(ExecutorDiedError):
        client.describe("failing")
    assert client.generate("fake", "hello", SHORT)
    client.unload("failing")


def test_an_engine_that_does_not_fit_says_so(client: Client, repository: Path, tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "foreign")
    text = (engine / "manifest.json").read_text()
    (engine / "manifest.json").write_text(text.replace('"format_version": 1', '"format_version": 99'))
    put_version(repository, "foreign", 1, engine)
    with pytest.raises(EngineError, match="format version 99; this ingot reads version 1"):
        client.load("foreign")
    assert [row.state for row in client.models() if row.name == "foreign"] == ["UNAVAILABLE"]


def test_versions_are_swapped_while_streams_run(client: Client, repository: Path, tmp_path: Path) -> None:
    """A broken version 2 changes nothing; a sound one takes over; no stream fails or is cut."""
    put_version(repository, "swapped", 1, write_engine(tmp_path / "one", step_seconds=0.004, name="one"))
    client.load("swapped")
    broken = write_engine(tmp_path / "two", step_seconds=0.004, name="two")
    (broken / "tokenizer.json").write_text("{")
    put_version(repository, "swapped", 2, broken)
    lengths: list[int] = []

    async def streams(friend: AsyncClient, stop: asyncio.Event) -> None:
        while not stop.is_set():
            (one,) = await friend.generate("swapped", "hello", SamplingParams(max_tokens=50, ignore_eos=True))
            lengths.append(len(one.token_ids))

    async def swap() -> str:
        async with AsyncClient(client.address, options_of()) as friend:
            stop = asyncio.Event()
            running = [asyncio.create_task(streams(friend, stop)) for _ in range(4)]
            with pytest.raises(EngineError):
                await friend.load("swapped")
            assert (await friend.describe("swapped")).manifest.name == "one"
            write_engine(broken, step_seconds=0.004, name="two")
            found = await friend.swap("swapped", "2")
            await asyncio.sleep(0.3)
            stop.set()
            await asyncio.gather(*running)
            return found.manifest.name

    assert asyncio.run(swap()) == "two"
    assert client.describe("swapped").manifest.name == "two"
    assert len(lengths) > 8
    assert set(lengths) == {50}
    print(f"{len(lengths)} streams during the swap, none failed, none short")
    client.unload("swapped")


def test_unloading_gives_the_memory_back(client: Client, server: TritonServer, repository: Path, engine: Path) -> None:
    put_version(repository, "passing", 1, engine)
    client.load("passing")

    async def use_and_unload() -> None:
        """The stream that requests share is open all the while."""
        async with AsyncClient(server.grpc_address, options_of()) as friend:
            assert await friend.generate("passing", "hello", SHORT)
            assert len(processes(server, "passing")) == 1
            await friend.unload("passing")
            await asyncio.to_thread(until, lambda: not processes(server, "passing"))

    asyncio.run(use_and_unload())
    with pytest.raises(UnavailableError, match="not loaded"):
        client.describe("passing")


def test_describe_is_the_manifest(client: Client, engine: Path) -> None:
    found = client.describe("fake")
    assert found.manifest.limits == read_manifest(engine).limits
    assert found.manifest.files == {}
