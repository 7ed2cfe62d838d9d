"""The limits of one request, as an administrator may lower them; each by its flag."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner
from tests.attacks.conftest import gauges
from tests.client.served import served
from tests.engines import LOADER, NAME, worker_path, write_engine

from ingot.client.embedded import EmbeddedBackend, EmbeddedOptions
from ingot.client.openai.serve import ServeOptions
from ingot.client.serve_flags import ServerFlags, serve_options, server_flags
from ingot.errors import IngotError
from ingot.runtime.supervisor import SupervisorOptions

FLAGS = (
    "--max-n 3 --max-top-logprobs 2 --max-stop-strings 1 --max-schema-kib 1 --max-schema-depth 3 --max-prompt-tokens 30"
)
ASK = {"model": NAME, "prompt": "hello", "max_tokens": 2}
DEEP = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "array", "items": {}}}}}


def flags_of(words: str) -> ServerFlags:
    found: list[ServerFlags] = []

    @click.command()
    @server_flags
    def command(server: ServerFlags) -> None:
        serve_options(server)
        found.append(server)

    done = CliRunner().invoke(command, words.split(), standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return found[0]


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    engine = write_engine(tmp_path_factory.mktemp("limited") / "engine", step_seconds=0.001)
    flags = flags_of(FLAGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", worker_path())
        options = EmbeddedOptions(
            supervisor=SupervisorOptions(loader=LOADER), max_prompt_tokens=flags.max_prompt_tokens
        )
        with served(EmbeddedBackend(engine, options), serve_options(flags)) as url, httpx.Client(base_url=url) as http:
            yield http


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 4}, "n"),
        ({"logprobs": 3}, "logprobs"),
        ({"prompt_logprobs": 3}, "prompt_logprobs"),
        ({"stop": ["a", "b"]}, "stop"),
        ({"prompt": "x" * 31}, "prompt"),
        ({"guided_regex": "a" * 1025}, "grammar"),
        ({"guided_json": DEEP}, "grammar"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_is_beyond_a_lowered_limit_is_refused_by_name(
    limited: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    reply = limited.post("/v1/completions", json=ASK | fields)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param
    chat = limited.post(
        "/v1/chat/completions", json={"model": NAME, "n": 4, "messages": [{"role": "user", "content": "x"}]}
    )
    assert chat.status_code == 400


def test_what_is_within_the_limits_passes(limited: httpx.Client) -> None:
    fields = {"n": 3, "logprobs": 2, "stop": ["~"], "prompt": "x" * 30}
    assert limited.post("/v1/completions", json=ASK | fields).status_code == 200


def test_an_answer_that_takes_too_long_is_ended_and_gives_its_pages_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", worker_path())
    engine = write_engine(tmp_path / "engine", step_seconds=0.05)
    seconds = flags_of("--request-seconds 0.3").request_seconds
    options = EmbeddedOptions(supervisor=SupervisorOptions(loader=LOADER), request_seconds=seconds)
    long = ASK | {"max_tokens": 400, "ignore_eos": True}
    with served(EmbeddedBackend(engine, options)) as url, httpx.Client(base_url=url, timeout=30) as http:
        whole = http.post("/v1/completions", json=long)
        assert (whole.status_code, whole.json()["error"]["code"]) == (504, "deadline_exceeded")
        *_, last, done, _ = http.post("/v1/completions", json=long | {"stream": True}).text.split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
        assert done == "data: [DONE]"
        while gauges(http) != (0.0, 0.0, 0.0):
            pass


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--key-rpm 5", "limits of keys"),
        ("--tls-cert Makefile", "both --tls-cert and --tls-key"),
        ("--tls-ca Makefile", "both --tls-cert and --tls-key"),
        ("--max-n 129", "1<=x<=128"),
        ("--max-schema-depth 65", "1<=x<=64"),
        ("--api-key a=x --api-key a=y", "are called 'a'"),
    ],
)
def test_flags_that_do_not_fit_are_refused(words: str, said: str) -> None:
    with pytest.raises((click.UsageError, IngotError), match=said):
        flags_of(words)


def test_every_flag_reaches_what_it_is_for() -> None:
    words = "--api-key a=k --key-rpm 7 --key-concurrent 3 --max-concurrent 5 --max-connections 6 --max-body-mib 2"
    more = "--max-header-kib 4 --header-seconds 1 --body-seconds 2 --stall-seconds 3 --log-format json --log-prompts"
    options: ServeOptions = serve_options(flags_of(f"{words} {more} --open-health"))
    (key,) = options.gate.api_keys
    assert not isinstance(key, str)
    assert (key.name, key.requests_per_minute, key.concurrent) == ("a", 7, 3)
    gate, patience = options.gate, options.patience
    assert (gate.max_concurrent, gate.max_body_bytes, gate.max_header_bytes) == (5, 2 << 20, 4 << 10)
    assert (gate.body_seconds, gate.open_health) == (2, True)
    assert (patience.max_connections, patience.header_seconds, patience.stall_seconds) == (6, 1, 3)
    assert (options.log_format, options.front.log_prompts) == ("json", True)
