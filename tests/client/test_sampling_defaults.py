"""A model's own sampling defaults, in every dialect: they stand where a request is silent, and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner
from tests.client.fake_backend import FakeBackend
from tests.client.scripted import NAME, ScriptedBackend
from tests.client.served import served
from tests.engines import write_engine

from ingot.client.commands import serve
from ingot.client.openai.serve import sampling_line

OWN = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.05}
TURNS = [{"role": "user", "content": "hi"}]
SILENT: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": NAME, "messages": TURNS},
    "/v1/completions": {"model": NAME, "prompt": "hi"},
    "/v1/responses": {"model": NAME, "input": "hi"},
    "/v1/messages": {"model": NAME, "messages": TURNS, "max_tokens": 5},
    "/api/chat": {"model": NAME, "messages": TURNS, "stream": False},
    "/api/generate": {"model": NAME, "prompt": "hi", "stream": False},
    "/generate": {"inputs": "hi", "parameters": {"do_sample": True}},
}
WHERE = {"/api/chat": "options", "/api/generate": "options", "/generate": "parameters"}


@pytest.fixture(scope="module")
def scripted() -> Iterator[tuple[ScriptedBackend, httpx.Client]]:
    backend = ScriptedBackend()
    with served(backend) as url, httpx.Client(base_url=url, verify=False) as http:
        yield backend, http


def sampled(scripted: tuple[ScriptedBackend, httpx.Client], route: str, card: Any, **fields: Any) -> dict[str, float]:
    backend, http = scripted
    backend.says("x", card={"sampling": card})
    body = SILENT[route]
    asked = {WHERE[route]: body.get(WHERE[route], {}) | fields} if route in WHERE else fields
    reply = http.post(route, json=body | asked)
    assert reply.status_code == 200, reply.text
    params = backend.seen[-1].params
    return {name: getattr(params, name) for name in (*OWN, "min_p")}


@pytest.mark.parametrize("route", sorted(SILENT))
def test_the_models_own_stand_where_a_request_is_silent(scripted: Any, route: str) -> None:
    assert sampled(scripted, route, OWN) == OWN | {"min_p": 0}
    assert sampled(scripted, route, OWN, temperature=0.1, top_p=0.5) == OWN | {
        "temperature": 0.1,
        "top_p": 0.5,
        "min_p": 0,
    }


@pytest.mark.parametrize("route", sorted(SILENT))
def test_without_them_each_dialects_own_stand(scripted: Any, route: str) -> None:
    ollamas = {"temperature": 0.8, "top_p": 0.9, "top_k": 40} if route.startswith("/api") else {}
    plain = {"temperature": 1, "top_p": 1, "top_k": 0, "repetition_penalty": 1, "min_p": 0}
    assert sampled(scripted, route, {}) == plain | ollamas


def test_tgi_stays_greedy_where_nothing_asks_to_sample(scripted: Any) -> None:
    assert sampled(scripted, "/generate", OWN, do_sample=False)["temperature"] == 0
    assert sampled(scripted, "/generate", OWN, do_sample=False)["repetition_penalty"] == 1.05


def test_the_server_says_them_when_it_starts() -> None:
    (card,) = asyncio.run(FakeBackend().models())
    line = sampling_line(msgspec.structs.replace(card, sampling=OWN))
    assert "temperature 0.6, top_p 0.95, top_k 20, repetition_penalty 1.05" in line


@pytest.mark.parametrize(("words", "wanted"), [([], True), (["--generation-config", "none"], False)])
def test_the_flag_reaches_both_backends(
    words: list[str], wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []
    monkeypatch.setattr("ingot.client.openai.serve.serve", lambda backend, options: served.append(backend))
    engine = write_engine(tmp_path / "engine")
    for where in ([str(engine)], ["--triton", "localhost:1"]):
        said = CliRunner().invoke(serve, [*where, *words])
        assert said.exit_code == 0, said.output
    assert [backend._options.generation_config for backend in served] == [wanted, wanted]


def test_responses_say_what_was_used(scripted: Any) -> None:
    backend, http = scripted
    backend.says("x", card={"sampling": OWN})
    reply = http.post("/v1/responses", json=SILENT["/v1/responses"]).json()
    assert (reply["temperature"], reply["top_p"]) == (0.6, 0.95)
