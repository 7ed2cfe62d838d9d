"""What every Backend promises, held by the embedded one and by the one over a real Triton server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import msgspec
import openai
import pytest
from tests.client.served import served
from tests.e2e.triton import ADMIN_KEY, options_of, put_version, triton
from tests.engines import LOADER, NAME, worker_path, write_engine
from tests.fakes import vector_of

from ingot.client.backend import Backend
from ingot.client.embedded import EmbeddedBackend, EmbeddedOptions
from ingot.client.grpc_async import AsyncClient
from ingot.client.grpc_wire import ClientOptions
from ingot.client.page.board import Board, Snapshot
from ingot.client.page.failures import FailureLog
from ingot.client.triton_backend import TritonBackend, TritonOptions
from ingot.client.triton_process import TritonServer
from ingot.errors import RequestError, UnavailableError, UnknownModelError
from ingot.runtime.params import SamplingParams
from ingot.runtime.request import Chunk, EmbedRequest, GenerateRequest, Prompt
from ingot.runtime.supervisor import SupervisorOptions
from ingot.templates.render import json_text

Make = Callable[[], Backend]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engine(tmp_path_factory.mktemp("engines") / "fake", step_seconds=0.004)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, engine: Path) -> Iterator[TritonServer]:
    repository = tmp_path_factory.mktemp("repository")
    put_version(repository, NAME, 1, engine)
    with triton(repository) as server:
        yield server


@pytest.fixture(params=["embedded", "triton"])
def make(request: pytest.FixtureRequest, engine: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    if request.param == "embedded":
        monkeypatch.setenv("PYTHONPATH", worker_path())
        options = EmbeddedOptions(supervisor=SupervisorOptions(loader=LOADER))
        return lambda: EmbeddedBackend(engine, options)
    address = request.getfixturevalue("server").grpc_address
    return lambda: TritonBackend(TritonOptions(address=address, client=options_of()))


@asynccontextmanager
async def started(make: Make) -> AsyncIterator[Backend]:
    backend = make()
    await backend.start()
    try:
        yield backend
    finally:
        await backend.stop(0)


def ask(
    text: str = "hello", *, name: str = "a", model: str = NAME, max_tokens: int = 20, n: int = 1
) -> GenerateRequest:
    params = SamplingParams(max_tokens=max_tokens, n=n, seed=1, ignore_eos=True)
    return GenerateRequest(request_id=name, model=model, prompt=Prompt(text=text), params=params)


async def everything(backend: Backend, request: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunk in backend.generate(request)]


async def test_an_answer_is_whole_and_counted(make: Make) -> None:
    async with started(make) as backend:
        chunks = await everything(backend, ask(n=2))
        ends = [chunk for chunk in chunks if chunk.finish_reason]
        assert sorted((end.index, end.finish_reason) for end in ends) == [(0, "length"), (1, "length")]
        assert all(end.usage is not None and end.usage.completion_tokens == 20 for end in ends)
        assert (await backend.models())[0].name == NAME
        assert (await backend.models())[0].max_model_len == 512


async def test_text_is_the_same_alone_and_in_a_crowd(make: Make) -> None:
    async with started(make) as backend:
        alone = "".join(chunk.text for chunk in await everything(backend, ask()))
        crowd = await asyncio.gather(*(everything(backend, ask(name=f"b{i}")) for i in range(20)))
        assert {"".join(chunk.text for chunk in chunks) for chunks in crowd} == {alone}


async def test_vectors_are_the_same_alone_and_beside_streams(make: Make) -> None:
    async with started(make) as backend:
        asked = [EmbedRequest(request_id=f"e{i}", model=NAME, prompt=Prompt(text="ab" * (1 + i))) for i in range(16)]
        alone = [(await backend.embed(one)).vector for one in asked]
        mean = msgspec.structs.replace(asked[3], request_id="mean", pooling="mean")
        ids = await backend.tokenize(NAME, mean.prompt)
        assert alone[3] == vector_of(ids, "last")
        streams = [asyncio.create_task(everything(backend, ask(name=f"g{i}", max_tokens=200))) for i in range(4)]
        crowd = await asyncio.gather(*(backend.embed(one) for one in [*asked, mean]))
        assert [one.vector for one in crowd] == [*alone, vector_of(ids, "mean")]
        for stream in streams:
            assert (await stream)[-1].finish_reason == "length"


async def test_vectors_that_cannot_be_are_refused(make: Make) -> None:
    async with started(make) as backend:
        long = EmbedRequest(request_id="long", model=NAME, prompt=Prompt(text="x" * 513))
        with pytest.raises(RequestError, match="513 tokens"):
            await backend.embed(long)
        cut = await backend.embed(msgspec.structs.replace(long, truncate="right"))
        assert cut.usage is not None
        assert cut.usage.prompt_tokens == 512
        with pytest.raises(RequestError, match="pooling"):
            await backend.embed(EmbedRequest(request_id="p", model=NAME, prompt=Prompt(text="x"), pooling="cls"))
        with pytest.raises(RequestError, match="token id 5000"):
            await backend.embed(EmbedRequest(request_id="t", model=NAME, prompt=Prompt(token_ids=[5000])))
        with pytest.raises(UnknownModelError):
            await backend.embed(EmbedRequest(request_id="m", model="nobody", prompt=Prompt(text="x")))


async def test_a_vector_nobody_waits_for_leaves_no_trace(make: Make) -> None:
    async with started(make) as backend:
        for number in range(20):
            asked = EmbedRequest(request_id=f"c{number}", model=NAME, prompt=Prompt(text="x" * 400))
            waiting = asyncio.create_task(backend.embed(asked))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert (await backend.embed(EmbedRequest(request_id="last", model=NAME, prompt=Prompt(text="x")))).vector


async def test_tokens_go_there_and_back(make: Make) -> None:
    async with started(make) as backend:
        ids = await backend.tokenize(NAME, Prompt(text="hello"))
        assert await backend.detokenize(NAME, ids) == "hello"


async def test_bad_requests_are_refused_before_anything_runs(make: Make) -> None:
    async with started(make) as backend:
        with pytest.raises(RequestError) as caught:
            await everything(backend, ask(max_tokens=0))
        assert caught.value.param == "max_tokens"
        with pytest.raises(UnknownModelError):
            await everything(backend, ask(model="nobody"))


async def test_an_id_in_use_is_refused(make: Make) -> None:
    async with started(make) as backend, aclosing(backend.generate(ask(max_tokens=400))) as chunks:
        await anext(chunks)
        with pytest.raises(RequestError):
            await everything(backend, ask())


async def test_closing_the_iterator_frees_the_place(make: Make) -> None:
    async with started(make) as backend:
        for number in range(40):
            async with aclosing(backend.generate(ask(name=str(number), max_tokens=400))) as chunks:
                await anext(chunks)
        assert len(await everything(backend, ask())) > 0
        assert b'ingot:num_requests_running{model_name="fake"}' in await backend.metrics()


async def test_stopping_drains_and_then_refuses(make: Make) -> None:
    async with started(make) as backend:
        running = asyncio.create_task(everything(backend, ask(max_tokens=60)))
        await asyncio.sleep(0.1)
        await backend.stop(20)
        assert (await running)[-1].finish_reason == "length"
        with pytest.raises(UnavailableError):
            await everything(backend, ask())
        assert not (await backend.health()).ready


async def test_stopping_ends_what_does_not_end(make: Make) -> None:
    async with started(make) as backend:
        running = asyncio.create_task(everything(backend, ask(max_tokens=480)))
        await asyncio.sleep(0.1)
        await backend.stop(0)
        assert (await running)[-1].finish_reason == "abort"


def test_the_openai_app_cannot_tell_them_apart(make: Make) -> None:
    with served(make()) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        whole = client.completions.create(model=NAME, prompt="hello", max_tokens=20, seed=1)
        pieces = client.completions.create(model=NAME, prompt="hello", max_tokens=20, seed=1, stream=True)
        assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
        assert whole.usage is not None
        assert whole.usage.prompt_tokens == 5
        assert [model.id for model in client.models.list()] == [NAME]
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="nobody", prompt="hello")
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            client.completions.create(model=NAME, prompt="hello", max_tokens=100_000)


async def test_labels_and_shares_choose_the_version(server: TritonServer, tmp_path: Path) -> None:
    routes = tmp_path / "routes.json"
    routes.write_text(json_text({NAME: {"weights": {"1": 1}, "labels": {"canary": 1}}}))
    options = TritonOptions(address=server.grpc_address, models=(NAME,), routes=routes, client=ClientOptions(retries=0))
    async with started(lambda: TritonBackend(options)) as backend:
        assert [card.name for card in await backend.models()] == [NAME, f"{NAME}:canary"]
        assert await everything(backend, ask(model=f"{NAME}:canary"))
        with pytest.raises(UnknownModelError):
            await everything(backend, ask(model=f"{NAME}:other"))
        routes.write_text(json_text({NAME: {"weights": {"2": 1}, "labels": {"canary": 1}}}))
        with pytest.raises(UnknownModelError):  # the file is read again: there is no version 2
            await everything(backend, ask())


async def test_a_server_that_is_not_there_is_said_at_the_start() -> None:
    options = TritonOptions(address="127.0.0.1:9", start_timeout=0.5, client=ClientOptions(admin_key=ADMIN_KEY))
    with pytest.raises(UnavailableError, match="cannot be reached"):
        await TritonBackend(options).start()


async def test_versions_are_swapped_under_openai_streams(server: TritonServer, tmp_path: Path) -> None:
    """Version 2 takes the place of version 1 while people stream: nobody fails, nobody is cut short."""
    assert server.repository.is_dir()
    put_version(server.repository, "swapped", 1, write_engine(tmp_path / "one", step_seconds=0.004))
    lengths: list[int] = []
    stop = asyncio.Event()

    async def person(client: openai.AsyncOpenAI) -> None:
        while not stop.is_set():
            stream = await client.completions.create(
                model="swapped", prompt="hello", max_tokens=40, stream=True, extra_body={"ignore_eos": True},
                stream_options={"include_usage": True},
            )  # fmt: skip
            lengths.append(sum(chunk.usage.completion_tokens for chunk in [c async for c in stream] if chunk.usage))

    async with AsyncClient(server.grpc_address, options_of()) as admin:
        await admin.load("swapped")
        options = TritonOptions(address=server.grpc_address, models=("swapped",))
        with served(TritonBackend(options)) as url:
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
                people = [asyncio.create_task(person(client)) for _ in range(8)]
                before = await at_least(8, lengths)
                put_version(server.repository, "swapped", 2, write_engine(tmp_path / "two", step_seconds=0.004))
                await admin.swap("swapped", "2")
                await at_least(len(lengths) + 16, lengths)  # the second eight began on version 2
                stop.set()
                await asyncio.gather(*people)
        await admin.unload("swapped")
    print(f"{len(lengths)} streams, {before} of them before the swap; none failed, {Counter(lengths)} by tokens")
    assert set(lengths) == {40}


async def at_least(count: int, lengths: list[int]) -> int:
    async with asyncio.timeout(60):
        while len(lengths) < count:
            await asyncio.sleep(0.02)
    return len(lengths)


async def test_the_status_page_shows_what_runs(make: Make) -> None:
    async with started(make) as backend:
        board = Board(backend, FailureLog(), period=0.1)
        async with aclosing(board.watch()) as events:
            (idle,) = (await snapshot(events)).models
            assert (idle.name, idle.figures.running, idle.figures.kv_use) == (NAME, 0, 0)
            people = [asyncio.create_task(ask_for_ever(backend, f"p{i}")) for i in range(2)]
            while not (await snapshot(events)).models[0].figures.running:
                pass
            for one in people:
                one.cancel()
            await asyncio.gather(*people, return_exceptions=True)


async def ask_for_ever(backend: Backend, name: str) -> None:
    while True:
        await everything(backend, ask(name=name, max_tokens=400))


async def snapshot(events: AsyncGenerator[bytes, None]) -> Snapshot:
    return msgspec.json.decode((await anext(events)).removeprefix(b"data: "), type=Snapshot)
