"""One fake backend behind one real server for a whole module of tests."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from tests.client.fake_backend import FakeBackend
from tests.client.served import served


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[FakeBackend, str]]:
    backend = FakeBackend()
    with served(backend) as url:
        yield backend, url


@pytest.fixture
def url(server: tuple[FakeBackend, str]) -> str:
    return server[1]


@pytest.fixture
def backend(server: tuple[FakeBackend, str]) -> Iterator[FakeBackend]:
    backend = server[0]
    yield backend
    backend.error, backend.delay, backend.fail_after = None, 0.0, 0
    backend.seen.clear()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        yield client
