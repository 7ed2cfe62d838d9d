"""Logs: one JSON object a line, whose request and key it is about, and never a key or, unless asked for, a prompt."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.client.fake_backend import NAME, FakeBackend
from tests.client.served import served

from ingot.client.front import FrontOptions
from ingot.client.openai.gate import GateOptions
from ingot.client.openai.serve import ServeOptions
from ingot.errors import UnavailableError
from ingot.runtime.logs import JsonLines

KEY = "the-key-that-no-log-shows"
SECRET = "a-prompt-that-no-log-shows"
EVIL = 'x\r\n{"level":"error"}\x1b[31m'


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(JsonLines("server"))
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(("http", "asyncio")):  # the tests' own client
            self.texts.append(self.format(record))

    def of(self, logger: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self.texts) if line["logger"] == logger]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, root = Lines(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def ask(url: str, key: str, **fields: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}", "X-Request-Id": "job-7"}
    return httpx.post(url + "/v1/completions", json={"model": NAME, "prompt": SECRET} | fields, headers=headers)


@pytest.mark.parametrize("log_prompts", [False, True])
def test_each_request_has_its_line(lines: Lines, log_prompts: bool) -> None:
    gate = GateOptions(api_keys=[f"alice={KEY}"], access_level=logging.INFO)
    backend = FakeBackend()
    with served(
        backend, ServeOptions(gate=gate, front=FrontOptions(log_prompts=log_prompts), log_level="debug")
    ) as url:
        assert ask(url, KEY).status_code == 200
        assert ask(url, "wrong-" + KEY).status_code == 401
        assert ask(url, KEY, stream=True).status_code == 200
        assert ask(url, KEY, model=EVIL).status_code == 404
        backend.error = UnavailableError("Gone.", mend="Wait.")
        assert ask(url, KEY).status_code == 503
        assert httpx.get(url + "/%0d%0a{}%1b", headers={"Authorization": f"Bearer {KEY}"}).status_code == 404
    access = lines.of("ingot.access")
    assert [line["status"] for line in access] == [200, 401, 200, 404, 503, 404]
    assert access[0] | {"time": "", "seconds": 0, "message": ""} == {
        "time": "",
        "level": "info",
        "logger": "ingot.access",
        "process": "server",
        "message": "",
        "request_id": "job-7",
        "key": "alice",
        "method": "POST",
        "path": "/v1/completions",
        "status": 200,
        "seconds": 0,
    }
    assert "key" not in access[1]
    assert access[5]["path"] == "/%0D%0A%7B%7D%1B"
    everything = "\n".join(lines.texts)
    assert KEY not in everything
    assert (SECRET in everything) is log_prompts
    prompts = lines.of("ingot.prompts")
    assert [line["prompt"]["text"] for line in prompts] == [SECRET] * 3 * log_prompts
    assert {line["key"] for line in prompts} == {"alice"} & {"alice" if log_prompts else ""}


def test_a_line_is_one_line_whatever_it_says() -> None:
    record = logging.LogRecord("a", logging.ERROR, __file__, 1, "%s", (EVIL + "\ud800",), None)
    line = JsonLines("executor").format(record)
    assert line.isprintable()
    assert json.loads(line)["message"].startswith(EVIL[:20])


def test_a_failure_carries_its_traceback_in_the_same_line() -> None:
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        record = logging.LogRecord("a", logging.ERROR, __file__, 1, "failed", (), (ValueError, error, None))
    line = JsonLines("server").format(record)
    assert line.isprintable()
    assert "ValueError" in json.loads(line)["exception"]
