"""`ingot ask` against a real server with a fake backend."""

from __future__ import annotations

import httpx
import pytest
from click.testing import CliRunner
from tests.client.fake_backend import FakeBackend
from tests.client.served import served

from ingot.client.commands import ask
from ingot.client.openai.gate import GateOptions
from ingot.errors import ExecutorDiedError, IngotError, UnavailableError


def test_the_answer_goes_to_stdout_and_the_figures_to_stderr(http: httpx.Client, backend: FakeBackend) -> None:
    result = CliRunner().invoke(ask, ["hello", "--url", str(http.base_url), "--seed", "3"], catch_exceptions=False)
    assert result.stdout == "HELLO\n"
    assert result.stderr.startswith("5 tokens, first token after")
    assert backend.seen[-1].params.seed == 3


def test_without_a_question_it_chats_and_remembers(http: httpx.Client, backend: FakeBackend) -> None:
    result = CliRunner().invoke(ask, ["--url", f"{http.base_url}/v1"], input="one\n\ntwo\n", catch_exceptions=False)
    assert result.stdout == "ONE\nTWO\n"
    said = [message["content"] for message in backend.seen[-1].prompt.messages or []]
    assert said == ["one", "ONE", "two"]


def test_an_error_in_the_middle_is_raised(http: httpx.Client, backend: FakeBackend) -> None:
    backend.error, backend.fail_after = ExecutorDiedError("The executor died.", mend="Wait."), 2
    with pytest.raises(IngotError, match="The executor died"):
        CliRunner().invoke(ask, ["hello", "--url", str(http.base_url)], catch_exceptions=False)


def test_nobody_there_and_no_key_say_what_mends_them() -> None:
    with pytest.raises(UnavailableError, match="ingot serve"):
        CliRunner().invoke(ask, ["hello", "--url", "127.0.0.1:9"], catch_exceptions=False)
    with served(FakeBackend(), GateOptions(api_keys=["k"])) as url:
        with pytest.raises(IngotError, match=r"401.*API key"):
            CliRunner().invoke(ask, ["hello", "--url", url], catch_exceptions=False)
        assert CliRunner().invoke(ask, ["hello", "--url", url, "--api-key", "k"]).stdout == "HELLO\n"
