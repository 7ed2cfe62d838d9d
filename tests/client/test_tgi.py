"""TGI's routes as huggingface_hub's own client sees them, over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields as fields_of
from typing import Any

import httpx
import pytest
from huggingface_hub import InferenceClient, TextGenerationInputGenerateParameters
from huggingface_hub.errors import OverloadedError, ValidationError
from prometheus_client.parser import text_string_to_metric_families
from tests.client.fake_backend import NAME, FakeBackend

from ingot.client.metrics import Metrics
from ingot.client.tgi.metrics import TGI_NAMES, with_tgi_names
from ingot.client.tgi.schema import REFUSED_PARAMETERS, Parameters
from ingot.errors import ExecutorDiedError, QueueFullError

BODY = {"inputs": "hi"}


@pytest.fixture(scope="module")
def hub(server: tuple[FakeBackend, str]) -> Iterator[InferenceClient]:
    with InferenceClient(model=server[1], token="none") as client:
        yield client


def test_answer(hub: InferenceClient, backend: FakeBackend) -> None:
    assert hub.text_generation("héllo") == "HÉLLO"
    assert backend.seen[-1].params.temperature == 0
    assert backend.seen[-1].params.max_tokens == 100


def test_details(hub: InferenceClient, backend: FakeBackend) -> None:
    said = hub.text_generation(
        "hello", details=True, decoder_input_details=True, top_n_tokens=2, max_new_tokens=3, return_full_text=True
    )
    assert said.generated_text == "helloHEL"
    details = said.details
    assert details is not None
    assert (details.finish_reason, details.generated_tokens, details.seed) == ("length", 3, None)
    assert [token.text for token in details.tokens] == ["H", "E", "L"]
    assert [token.id for token in details.prefill] == [ord(letter) for letter in "hello"]
    assert [len(tops) for tops in details.top_tokens or []] == [2, 2, 2]


def test_stream(hub: InferenceClient, backend: FakeBackend) -> None:
    assert "".join(hub.text_generation("hello", stream=True)) == "HELLO"
    events = [*hub.text_generation("hello", stream=True, details=True, do_sample=True, seed=7, top_n_tokens=1)]
    assert [event.token.text for event in events] == [*"HELLO"]
    assert [event.index for event in events] == [1, 2, 3, 4, 5]
    assert {event.generated_text for event in events[:-1]} == {None}
    assert events[-1].generated_text == "HELLO"
    assert events[-1].details is not None
    assert (events[-1].details.seed, events[-1].details.generated_tokens) == (7, 5)
    assert events[-1].details.finish_reason == "eos_token"
    assert events[-1].token.special


def test_best_of_shows_the_others(hub: InferenceClient, backend: FakeBackend) -> None:
    said = hub.text_generation("hello", best_of=3, do_sample=True, details=True)
    assert said.details is not None
    assert len(said.details.best_of_sequences or []) == 2
    assert backend.seen[-1].params.n == 3


def test_parameters_reach_the_backend(hub: InferenceClient, backend: FakeBackend) -> None:
    hub.text_generation(
        "hello",
        temperature=0.5,
        top_k=7,
        top_p=0.9,
        repetition_penalty=1.2,
        frequency_penalty=0.3,
        stop=["END"],
        seed=5,
        truncate=3,
        max_new_tokens=20,
    )
    request = backend.seen[-1]
    params = request.params
    assert request.prompt.token_ids == [ord(letter) for letter in "llo"]
    assert (params.temperature, params.top_k, params.top_p, params.seed, params.max_tokens) == (0.5, 7, 0.9, 5, 20)
    assert (params.repetition_penalty, params.frequency_penalty, params.stop) == (1.2, 0.3, ("END",))
    assert params.include_stop_in_output


@pytest.mark.parametrize(
    ("asked", "temperature"),
    [({}, 0.0), ({"temperature": 1.0}, 0.0), ({"do_sample": True}, 1.0), ({"top_k": 5}, 1.0), ({"top_p": 0.5}, 1.0)],
)
def test_only_what_asks_to_sample_samples(
    http: httpx.Client, backend: FakeBackend, asked: dict[str, Any], temperature: float
) -> None:
    said = http.post("/generate", json=BODY | {"parameters": asked | {"details": True}}).json()
    assert backend.seen[-1].params.temperature == temperature
    assert (said["details"]["seed"] is None) == (temperature == 0)
    assert backend.seen[-1].params.seed == said["details"]["seed"]
    assert backend.seen[-1].params.max_tokens == 100


def test_every_official_parameter_is_used_or_refused() -> None:
    official = {field.name for field in fields_of(TextGenerationInputGenerateParameters)}
    assert len(official) > 15
    assert official == Parameters.model_fields.keys() | REFUSED_PARAMETERS.keys()
    assert not Parameters.model_fields.keys() & REFUSED_PARAMETERS.keys()


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        *(({name: ["anything"]}, name) for name in sorted(REFUSED_PARAMETERS)),
        ({"watermark": True}, "watermark"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "best_of"),
        ({"temperature": 0}, "temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"no_such": 1}, "no_such"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    http: httpx.Client, backend: FakeBackend, asked: dict[str, Any], named: str
) -> None:
    reply = http.post("/generate", json=BODY | {"parameters": asked})
    assert (reply.status_code, reply.json()["error_type"]) == (400, "validation")
    assert f"'{named}'" in reply.json()["error"]
    assert backend.seen == []


@pytest.mark.parametrize("asked", [{"best_of": 2, "do_sample": True}, {"decoder_input_details": True}])
def test_what_does_not_stream_is_refused(http: httpx.Client, asked: dict[str, Any]) -> None:
    assert http.post("/generate_stream", json=BODY | {"parameters": asked}).status_code == 400
    assert http.post("/generate", json=BODY | {"stream": True}).status_code == 400


def test_failures_are_the_clients_own(hub: InferenceClient, backend: FakeBackend) -> None:
    with pytest.raises(ValidationError, match="typical_p"):
        hub.text_generation("hello", typical_p=0.5)
    backend.error = QueueFullError("Full.", mend="Wait.")
    with pytest.raises(OverloadedError, match="Full"):
        hub.text_generation("hello")


def test_a_failure_after_the_first_token_is_the_last_event(http: httpx.Client, backend: FakeBackend) -> None:
    backend.error, backend.fail_after = ExecutorDiedError("It died.", mend="Send it again."), 1
    events = http.post("/generate_stream", json=BODY).text.strip().split("\n\n")
    assert len(events) == 2
    assert "It died" in events[-1]
    assert '"error_type":"generation"' in events[-1]


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.mark.parametrize(
    ("kind", "value", "ours"),
    [
        ("json", SCHEMA, ("json_schema", SCHEMA)),
        ("json", json.dumps(SCHEMA), ("json_schema", SCHEMA)),
        ("json_schema", {"name": "x", "schema": SCHEMA}, ("json_schema", SCHEMA)),
        ("regex", "[0-9]+", ("regex", "[0-9]+")),
    ],
)
def test_a_grammar_reaches_the_backend(
    hub: InferenceClient, http: httpx.Client, backend: FakeBackend, kind: str, value: Any, ours: tuple[str, Any]
) -> None:
    if kind != "json_schema":
        assert hub.text_generation("hello", grammar={"type": kind, "value": value}) == "HELLO"  # type: ignore[arg-type]
    else:
        asked = {"grammar": {"type": kind, "value": value}}
        assert http.post("/generate", json=BODY | {"parameters": asked}).status_code == 200
    grammar = backend.seen[-1].params.grammar
    assert grammar is not None
    assert (grammar.kind, grammar.text if kind == "regex" else json.loads(grammar.text)) == ours


@pytest.mark.parametrize(
    "asked",
    [
        {"type": "json", "value": "{"},
        {"type": "json", "value": {"not": {}}},
        {"type": "json_schema", "value": {"name": "x"}},
        {"type": "regex", "value": {}},
        {"type": "ebnf", "value": "x"},
    ],
)
def test_a_grammar_that_is_none_is_refused(http: httpx.Client, backend: FakeBackend, asked: dict[str, Any]) -> None:
    reply = http.post("/generate", json=BODY | {"parameters": {"grammar": asked}})
    assert (reply.status_code, reply.json()["error_type"]) == (400, "validation")
    assert backend.seen == []


def test_info_and_the_bare_route(http: httpx.Client, backend: FakeBackend) -> None:
    info = http.get("/info").json()
    assert (info["model_id"], info["max_total_tokens"], info["max_input_tokens"]) == (NAME, 512, 511)
    assert http.post("/", json=BODY).json() == [{"generated_text": "HI"}]
    assert http.post("/generate", json=BODY).json() == {"generated_text": "HI"}


def test_metrics_under_tgis_names() -> None:
    metrics = Metrics("tiny", lambda: None)
    metrics.count_taken()
    metrics.count_failure("queue_full")
    metrics.finish("stop", whole=1.5, inference=1.0, decode=0.5, tokens=3)
    plain = metrics.text()
    both = with_tgi_names(plain).decode()
    assert both.startswith(plain.decode())
    added = both.removeprefix(plain.decode()).splitlines()
    for line in (
        'tgi_request_count{model_name="tiny"} 1.0',
        'tgi_request_failure{code="queue_full",model_name="tiny"} 1.0',
        'tgi_request_success{finished_reason="stop",model_name="tiny"} 1.0',
        'tgi_request_duration_sum{finished_reason="stop",model_name="tiny"} 1.5',
        'tgi_request_mean_time_per_token_duration_sum{model_name="tiny"} 0.25',
        "# TYPE tgi_request_duration histogram",
    ):
        assert line in added
    assert not [line for line in added if "ingot" in line or "_created" in line]
    names = {family.name for family in text_string_to_metric_families("\n".join(added) + "\n")}
    assert names == {name for name in TGI_NAMES.values() if not name.startswith(("tgi_queue", "tgi_batch"))}
