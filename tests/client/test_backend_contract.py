"""What every Backend must do, asked of each: the OpenAI server cannot tell them apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.client.fake_backend import FakeBackend
from tests.engines import LOADER, worker_path, write_engine

from ingot.client.backend import Backend
from ingot.client.embedded import EmbeddedBackend, EmbeddedOptions
from ingot.errors import IngotError, RequestError, UnknownModelError
from ingot.runtime.params import SamplingParams
from ingot.runtime.request import Chunk, EmbedRequest, GenerateRequest, Prompt
from ingot.runtime.supervisor import SupervisorOptions

MakeBackend = Callable[[Path], Backend]


def embedded(folder: Path) -> Backend:
    options = EmbeddedOptions(supervisor=SupervisorOptions(loader=LOADER))
    return EmbeddedBackend(write_engine(folder / "engine"), options)


def fake(folder: Path) -> Backend:
    return FakeBackend()


@pytest.fixture(params=[fake, embedded])
async def backend(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Backend]:
    monkeypatch.setenv("PYTHONPATH", worker_path())
    make: MakeBackend = request.param
    backend = make(tmp_path)
    await backend.start()
    yield backend
    await backend.stop(0)


async def ask(backend: Backend, name: str = "a", *, n: int = 1, max_tokens: int = 8) -> GenerateRequest:
    params = SamplingParams(n=n, max_tokens=max_tokens, ignore_eos=True, seed=0)
    model = (await backend.models())[0].name
    return GenerateRequest(request_id=name, model=model, prompt=Prompt(text="a long prompt"), params=params)


async def test_it_names_its_models(backend: Backend) -> None:
    (card,) = await backend.models()
    assert card.name
    assert card.max_model_len > 1
    assert card.vocab_size > 1
    assert card.fingerprint


async def test_every_sequence_ends_once_with_a_reason_and_its_usage(backend: Backend) -> None:
    last: dict[int, Chunk] = {}
    tokens = {0: 0, 1: 0}
    async for chunk in backend.generate(await ask(backend, n=2)):
        assert chunk.index not in last
        tokens[chunk.index] += len(chunk.token_ids)
        if chunk.finish_reason is not None:
            last[chunk.index] = chunk
    assert tokens == {0: 8, 1: 8}
    for chunk in last.values():
        assert chunk.finish_reason == "length"
        assert chunk.usage is not None
        assert (chunk.usage.prompt_tokens, chunk.usage.completion_tokens) == (13, 8)
    assert sorted(last) == [0, 1]


async def test_the_first_chunk_of_each_sequence_carries_the_prompts_tokens(backend: Backend) -> None:
    request = await ask(backend)
    chunks = [chunk async for chunk in backend.generate(request)]
    assert chunks[0].prompt_token_ids == await backend.tokenize(request.model, request.prompt)
    assert all(chunk.prompt_token_ids is None for chunk in chunks[1:])


async def test_closing_early_is_fine_and_others_go_on(backend: Backend) -> None:
    other = asyncio.create_task(count(backend, await ask(backend, "other", max_tokens=10)))
    async with aclosing(backend.generate(await ask(backend, "closed", max_tokens=10))) as chunks:
        await anext(chunks)
    assert await other == 10


async def count(backend: Backend, request: GenerateRequest) -> int:
    return sum([len(chunk.token_ids) async for chunk in backend.generate(request)])


async def test_tokens_and_text_are_each_others_inverse(backend: Backend) -> None:
    name = (await backend.models())[0].name
    tokens = await backend.tokenize(name, Prompt(text="to and fro"))
    assert await backend.detokenize(name, tokens) == "to and fro"
    assert await backend.tokenize(name, Prompt(token_ids=tokens)) == tokens


async def test_a_text_has_one_vector(backend: Backend) -> None:
    (card,) = await backend.models()
    assert "embed" in card.tasks
    assert card.embedding is not None
    requests = [
        EmbedRequest(request_id=str(i), model=card.name, prompt=Prompt(text="a long prompt" * (1 + i)))
        for i in range(8)
    ]
    chunks = await asyncio.gather(*(backend.embed(request) for request in requests))
    for i, chunk in enumerate(chunks):
        assert chunk.vector is not None
        assert len(chunk.vector) == 4 * card.embedding.size
        assert chunk.usage is not None
        assert (chunk.usage.prompt_tokens, chunk.usage.completion_tokens) == (13 * (1 + i), 0)
    with pytest.raises(RequestError):
        await backend.embed(EmbedRequest(request_id="long", model=card.name, prompt=Prompt(text="x" * 513)))


async def test_a_model_it_does_not_have_is_refused(backend: Backend) -> None:
    request = await ask(backend)
    stranger = GenerateRequest(request_id="b", model="stranger", prompt=request.prompt)
    with pytest.raises(UnknownModelError):
        await count(backend, stranger)
    with pytest.raises(UnknownModelError):
        await backend.tokenize("stranger", request.prompt)


async def test_it_is_healthy_until_it_is_stopped(backend: Backend) -> None:
    request = await ask(backend)
    assert (await backend.health()).ready
    assert isinstance(await backend.metrics(), bytes)
    await backend.stop(0)
    assert not (await backend.health()).ready
    with pytest.raises(IngotError):
        await count(backend, request)
