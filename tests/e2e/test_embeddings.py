"""Embeddings as clients see them, from a decoder and an encoder, on both backends, against transformers' own hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from huggingface_hub import InferenceClient
from tests.client.served import served
from tests.e2e.conftest import ROOT
from tests.e2e.triton import options_of, put_version, triton
from tests.encoders import true_vector, write_encoder

from ingot.builder.build import build_engine
from ingot.builder.recipe import Recipe
from ingot.client.embedded import EmbeddedBackend
from ingot.client.triton_backend import TritonBackend, TritonOptions
from ingot.client.triton_process import TritonServer
from ingot.runtime.load import load_executor
from ingot.runtime.text import Tokenizer
from ingot.runtime.worker import DEFAULT_LOADER

TEXTS = ["the boat goes out before it is light", "by noon they are back", "sea", "What is 17 + 25?"]
TOLERANCE = 2e-5  # of the coordinates of vectors of length 1


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("encoder")
    model = write_encoder("bert", folder / "model")
    recipe = Recipe(model=str(folder / "model"), out=str(folder / "engine"), name="bert", verify_tokens=128)
    return build_engine(recipe, cache=folder / "cache"), model


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, encoder: tuple[Path, Any], engine: Path) -> Iterator[TritonServer]:
    repository = tmp_path_factory.mktemp("repository")
    put_version(repository, "bert", 1, encoder[0], DEFAULT_LOADER)
    put_version(repository, "tiny", 1, engine, DEFAULT_LOADER)
    with triton(repository) as server:
        yield server


@pytest.fixture(params=["embedded", "triton"])
def url_of(request: pytest.FixtureRequest, encoder: tuple[Path, Any], engine: Path) -> Callable[[str], Any]:
    """Serves `bert` or `tiny` behind either backend."""
    if request.param == "embedded":
        return lambda name: served(EmbeddedBackend(encoder[0] if name == "bert" else engine))
    address = request.getfixturevalue("server").grpc_address
    return lambda name: served(TritonBackend(TritonOptions(address=address, models=(name,), client=options_of())))


def check(found: Any, tokens: list[list[int]], truth: Callable[[list[int]], torch.Tensor]) -> None:
    for vector, ids in zip(found, tokens, strict=True):
        wanted = torch.nn.functional.normalize(truth(ids), dim=0)
        np.testing.assert_allclose(np.asarray(vector), wanted.numpy(), rtol=0, atol=TOLERANCE)


def test_an_encoder(url_of: Callable[[str], Any], encoder: tuple[Path, Any]) -> None:
    engine, model = encoder
    tokenizer = Tokenizer.from_engine(engine)
    tokens = [tokenizer.encode(text) for text in TEXTS]
    with url_of("bert") as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        reply = client.embeddings.create(model="bert", input=TEXTS)
        check([one.embedding for one in reply.data], tokens, lambda ids: true_vector(model, ids, "mean"))
        assert reply.usage.prompt_tokens == sum(map(len, tokens))
        same = client.embeddings.create(
            model="bert", input=tokens, encoding_format="float", extra_body={"pooling": "cls"}
        )
        check([one.embedding for one in same.data], tokens, lambda ids: true_vector(model, ids, "cls"))
        short = client.embeddings.create(model="bert", input=TEXTS[0], dimensions=8)
        check([short.data[0].embedding], tokens[:1], lambda ids: true_vector(model, ids, "mean")[:8])
        with pytest.raises(openai.BadRequestError, match="generates no text"):
            client.chat.completions.create(model="bert", messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(openai.BadRequestError, match="generates no text"):
            client.completions.create(model="bert", prompt="hi", stream=True)
        with pytest.raises(openai.BadRequestError, match="holds 64"):
            client.embeddings.create(model="bert", input=["sea", "sea " * 70])
        (card,) = client.models.list().data
        assert card.model_dump()["tasks"] == ["embed"]
        hub = InferenceClient(model=url, token="none")
        check(hub.feature_extraction(TEXTS[0]), tokens[:1], lambda ids: true_vector(model, ids, "mean"))  # POST /
        hub = InferenceClient(model=f"{url}/embed", token="none")
        raw = hub.feature_extraction(TEXTS[1], normalize=False)
        np.testing.assert_allclose(raw[0], true_vector(model, tokens[1], "mean").numpy(), rtol=0, atol=1e-4)
        assert hub.feature_extraction("sea " * 99, truncate=True, truncation_direction="left").shape == (1, 48)


def test_a_decoder(url_of: Callable[[str], Any], engine: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(ROOT / "examples" / "tiny", dtype=torch.float32)
    tokenizer = Tokenizer.from_engine(engine)
    tokens = [tokenizer.encode(text) for text in TEXTS]

    def truth(ids: list[int], pooling: str) -> torch.Tensor:
        with torch.inference_mode():
            states: torch.Tensor = model(torch.tensor([ids])).last_hidden_state[0]
        return states[-1] if pooling == "last" else states.mean(0)

    with url_of("tiny") as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        for pooling in ("last", "mean"):
            extra = {} if pooling == "last" else {"pooling": pooling}
            reply = client.embeddings.create(model="tiny", input=TEXTS, extra_body=extra)
            check([one.embedding for one in reply.data], tokens, lambda ids, how=pooling: truth(ids, how))  # type: ignore[misc]


def test_an_encoder_loads_only_what_it_was_built_from(encoder: tuple[Path, Any]) -> None:
    executor = load_executor(encoder[0])
    assert executor.stats().pages_total == 0
