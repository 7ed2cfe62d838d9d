"""One fake or scripted backend behind one real server for a whole module of tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from tests.client.fake_backend import FakeBackend
from tests.client.scripted import ScriptedBackend
from tests.client.served import served


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[FakeBackend, str]]:
    backend = FakeBackend()
    with served(backend) as url:
        yield backend, url


@pytest.fixture(scope="module")
def http(server: tuple[FakeBackend, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server[1], verify=False) as http:
        yield http


@pytest.fixture
def backend(server: tuple[FakeBackend, str]) -> Iterator[FakeBackend]:
    backend = server[0]
    yield backend
    backend.error, backend.delay, backend.fail_after = None, 0.0, 0
    backend.seen.clear()
    backend.embedded.clear()
    backend.most_live = 0


@pytest.fixture(scope="module")
def client(server: tuple[FakeBackend, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server[1] + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def scripted() -> Iterator[tuple[ScriptedBackend, openai.OpenAI]]:
    backend = ScriptedBackend()
    with served(backend) as url, openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        yield backend, client


@pytest.fixture
def said(scripted: tuple[ScriptedBackend, openai.OpenAI]) -> Any:
    """`said(text, piece=..., tool_parser=...)` sets what the model will say; the client comes back."""

    def say(text: str, **settings: Any) -> openai.OpenAI:
        backend, client = scripted
        backend.says(text, **settings)
        return client

    return say
