"""/v1/embeddings and TEI's /embed over the fake backend, whose vectors are (number of tokens, 1)."""

from __future__ import annotations

import base64
from array import array
from typing import Any

import httpx
import openai
import pytest
from tests.client.fake_backend import NAME, FakeBackend

from ingot.client.openai.embeddings import AT_ONCE
from ingot.errors import ExecutorDiedError


def ask(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/v1/embeddings", json={"model": NAME, "input": "abc", **fields})


def vectors(reply: httpx.Response) -> list[list[float]]:
    assert reply.status_code == 200, reply.text
    assert [one["index"] for one in reply.json()["data"]] == list(range(len(reply.json()["data"])))
    return [one["embedding"] for one in reply.json()["data"]]


@pytest.mark.parametrize(
    ("given", "lengths"),
    [
        ("abc", [3]),
        (["abc"], [3]),
        (["a", "bc"], [1, 2]),
        ([5, 6, 7, 8], [4]),
        ([[5], [6, 7]], [1, 2]),
    ],
)
def test_every_spelling_of_the_input(http: httpx.Client, backend: FakeBackend, given: Any, lengths: list[int]) -> None:
    reply = ask(http, input=given, normalize=False)
    assert vectors(reply) == [[length, 1.0] for length in lengths]
    assert reply.json()["usage"] == {"prompt_tokens": sum(lengths), "total_tokens": sum(lengths)}
    assert (reply.json()["object"], reply.json()["model"]) == ("list", NAME)


def test_vectors_have_length_one(http: httpx.Client, backend: FakeBackend) -> None:
    assert vectors(ask(http)) == [pytest.approx([3 / 10**0.5, 1 / 10**0.5])]


def test_dimensions_cut_and_scale_again(http: httpx.Client, backend: FakeBackend) -> None:
    assert vectors(ask(http, dimensions=1)) == [[1.0]]
    assert vectors(ask(http, dimensions=1, normalize=False)) == [[3.0]]


def test_base64_holds_the_same_numbers(http: httpx.Client, backend: FakeBackend) -> None:
    (spelled,) = vectors(ask(http, encoding_format="base64"))
    (plain,) = vectors(ask(http, encoding_format="float"))
    assert array("f", base64.b64decode(str(spelled))).tolist() == pytest.approx(plain, abs=1e-7)


def test_the_official_client_reads_both(client: openai.OpenAI, backend: FakeBackend) -> None:
    spelled = client.embeddings.create(model=NAME, input=["abc", "d"])  # asks for base64 by itself
    plain = client.embeddings.create(model=NAME, input=["abc", "d"], encoding_format="float")
    assert [one.embedding for one in spelled.data] == [pytest.approx(one.embedding, abs=1e-6) for one in plain.data]


def test_pooling_and_priority_reach_the_backend(http: httpx.Client, backend: FakeBackend) -> None:
    ask(http, pooling="mean", priority=7, user="me")
    ask(http)
    assert [(one.pooling, one.priority) for one in backend.embedded] == [("mean", 7), (None, 0)]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": [""]}, "input"),
    ({"input": [[]]}, "input"),
    ({"input": ["a", 1]}, "input"),
    ({"input": [1, "a"]}, "input"),
    ({"input": [[1], "a"]}, "input"),
    ({"input": {"a": 1}}, "input"),
    ({"input": None}, "input"),
    ({"input": ["a"] * 2049}, "input"),
    ({"input": [-1]}, "input"),
    ({"input": [1 << 40]}, "input"),
    ({"input": [1.5]}, "input"),
    ({"input": [True]}, "input"),
    ({"input": "x" * 600}, "input"),
    ({"input": ["a", "x" * 600]}, "input[1]"),
    ({"dimensions": 0}, "dimensions"),
    ({"dimensions": 3}, "dimensions"),
    ({"dimensions": "2"}, "dimensions"),
    ({"encoding_format": "int8"}, "encoding_format"),
    ({"pooling": "max"}, "pooling"),
    ({"normalize": "yes"}, "normalize"),
    ({"stream": True}, "stream"),
]


@pytest.mark.parametrize(("fields", "param"), BAD, ids=[f"{param}-{i}" for i, (_, param) in enumerate(BAD)])
def test_bad_requests_name_their_field(
    http: httpx.Client, backend: FakeBackend, fields: dict[str, Any], param: str
) -> None:
    reply = ask(http, **fields)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param
    assert backend.live == 0


def test_unknown_models_are_not_found(http: httpx.Client, backend: FakeBackend) -> None:
    assert ask(http, model="nobody").status_code == 404


def test_a_long_list_takes_turns(http: httpx.Client, backend: FakeBackend) -> None:
    """2048 texts never fill the queue, and the answer keeps their order."""
    backend.delay = 0.0001
    reply = ask(http, input=["x" * (1 + i % 5) for i in range(2048)], normalize=False)
    assert [vector[0] for vector in vectors(reply)] == [1 + i % 5 for i in range(2048)]
    assert 1 < backend.most_live <= AT_ONCE


def test_one_failure_ends_the_rest(http: httpx.Client, backend: FakeBackend) -> None:
    backend.error = ExecutorDiedError("It died.", mend="Again.")
    assert ask(http, input=["a"] * 500).status_code == 503
    assert backend.live == 0
    assert len(backend.embedded) <= AT_ONCE


def test_tei_embed(http: httpx.Client, backend: FakeBackend) -> None:
    assert http.post("/embed", json={"inputs": "abc"}).json() == [pytest.approx([3 / 10**0.5, 1 / 10**0.5])]
    assert http.post("/embed", json={"inputs": ["a", "bc"], "normalize": False}).json() == [[1.0, 1.0], [2.0, 1.0]]
    http.post("/embed", json={"inputs": "a", "truncate": True, "truncation_direction": "Left"})
    http.post("/embed", json={"inputs": "a", "truncate": True})
    assert [one.truncate for one in backend.embedded[-2:]] == ["left", "right"]
    for bad in ({"inputs": ""}, {"inputs": "a", "prompt_name": "query"}, {"inputs": "x" * 600}, {"input": "a"}):
        reply = http.post("/embed", json=bad)
        assert (reply.status_code, reply.json()["error_type"]) == (400, "validation"), reply.text


def test_models_say_their_tasks(http: httpx.Client, backend: FakeBackend) -> None:
    assert http.get("/v1/models").json()["data"][0]["tasks"] == ["generate", "embed"]
