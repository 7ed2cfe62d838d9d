"""The bundled model from checkpoint to answers, as a person would do it: build, serve, ask, stop."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import psutil
import pytest
from openai.types.chat import ChatCompletionMessageParam
from tests.e2e.cli import ingot

KEY = "only-for-this-test"
SUM: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is 17 + 25?"}]


@dataclass
class Service:
    process: subprocess.Popen[str]
    url: str

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url + "/v1", api_key=KEY, max_retries=0)


@pytest.fixture
def service(engine: Path) -> Iterator[Service]:
    words = ["serve", str(engine), "--port", "0", "--served-model-name", "tiny", "--log-level", "warning"]
    with ingot(*words, INGOT_API_KEY=KEY) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if line.startswith("ingot serves"))
            found = re.fullmatch(r"ingot serves tiny at (http://127\.0\.0\.1:\d+)/v1\n", line)
            assert found is not None
            assert process.stderr.readline() == f"status page: {found.group(1)}/\n"
            yield Service(process, found.group(1))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)


def test_build_serve_ask_and_stop(service: Service) -> None:
    with service.client() as client:
        reply = client.chat.completions.create(model="tiny", messages=SUM, temperature=0)
        assert "42" in (reply.choices[0].message.content or "")
        chunks = client.chat.completions.create(model="tiny", messages=SUM, temperature=0, stream=True)
        streamed = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert streamed == reply.choices[0].message.content

        same = [
            client.chat.completions.create(model="tiny", messages=SUM, seed=5, temperature=2, n=2) for _ in range(2)
        ]
        assert [choice.message.content for choice in same[0].choices] == [
            one.message.content for one in same[1].choices
        ]

        scored = client.completions.create(model="tiny", prompt="What is", echo=True, logprobs=1, max_tokens=0)
        logprobs = scored.choices[0].logprobs
        assert logprobs is not None
        assert "".join(logprobs.tokens or []) == "What is"

        with pytest.raises(openai.BadRequestError, match="engine holds 256"):
            client.completions.create(model="tiny", prompt="one two three " * 200)
    assert httpx.get(service.url + "/health").status_code == 401

    with ingot("ask", "What is 17 + 25?", "--url", service.url, "--temperature", "0", INGOT_API_KEY=KEY) as asking:
        answer, figures = asking.communicate(timeout=60)
    assert answer.strip() == streamed
    assert re.search(r"\d+ tokens, first token after \d+ ms, \d+ tokens/s", figures)

    stop_while_streaming(service)


def refusal(client: openai.OpenAI) -> int | None:
    """The status that a short request is refused with, None where it is answered."""
    try:
        client.completions.create(model="tiny", prompt="b", max_tokens=1)
    except openai.InternalServerError as refused:
        return refused.status_code
    return None


def stop_while_streaming(service: Service) -> None:
    """SIGTERM lets a running answer finish, refuses a new one, and leaves no process behind."""
    children = psutil.Process(service.process.pid).children(recursive=True)
    assert any("ingot.runtime.worker" in child.cmdline() for child in children)
    with service.client() as client, service.client() as late:
        stream = client.completions.create(
            model="tiny", prompt="a", max_tokens=200, stream=True, temperature=0, extra_body={"ignore_eos": True}
        )
        next(stream)
        service.process.terminate()
        refused = None
        finish = None
        for chunk in stream:
            finish = chunk.choices[0].finish_reason
            refused = refused or refusal(late)  # some of the stream was on its way before the signal was
    assert (refused, finish) == (503, "length")
    assert service.process.wait(timeout=20) == 0
    assert not [child for child in children if child.is_running()]


def test_an_address_that_is_taken_and_an_engine_that_is_none_are_said_in_a_sentence(
    service: Service, tmp_path: Path
) -> None:
    port = service.url.rpartition(":")[2]
    engine = str(service.process.args[4])  # type: ignore[index]
    for words, said in (([engine, "--port", port], "Cannot listen on"), ([str(tmp_path)], "is not an engine")):
        with ingot("serve", *words) as refused:
            _, told = refused.communicate(timeout=60)
        assert refused.returncode == 1
        assert said in told
        assert "Traceback" not in told
