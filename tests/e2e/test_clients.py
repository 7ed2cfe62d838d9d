"""Each dialect's own client, and the two commands, against a live server with the bundled model: they all get its answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import jsonschema
import ollama
import openai
import pytest
from anthropic.types import MessageParam
from huggingface_hub import InferenceClient, TextGenerationInputGrammarType
from openai.types.responses import FunctionToolParam
from tests.client.served import served
from tests.e2e.cli import ingot

from ingot.client.embedded import EmbeddedBackend

SUM = {
    "type": "object",
    "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["sum"],
    "additionalProperties": False,
}
GRAMMAR = TextGenerationInputGrammarType(type="json", value=SUM)
HERE = Path(__file__).parent
JAVASCRIPT = HERE / "javascript"
QUESTION, ANSWER = "What is 17 + 25?", "17 + 25 = 42."


@pytest.fixture(scope="module")
def url(engine: Path) -> Iterator[str]:
    with served(EmbeddedBackend(engine)) as url:
        yield url


def test_anthropic(url: str) -> None:
    turns: list[MessageParam] = [{"role": "user", "content": QUESTION}]
    greedy = {"temperature": 0}
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        whole = client.messages.create(model="tiny", max_tokens=40, messages=turns, extra_body=greedy)
        assert [block.text for block in whole.content if block.type == "text"] == [ANSWER]
        with client.messages.stream(model="tiny", max_tokens=40, messages=turns, extra_body=greedy) as stream:
            assert "".join(stream.text_stream) == ANSWER
        cut = client.messages.create(
            model="tiny", max_tokens=40, messages=turns, stop_sequences=["="], extra_body=greedy
        )
        assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", "=")
        counted = client.messages.count_tokens(model="tiny", messages=turns).input_tokens
        cached = whole.usage.cache_read_input_tokens or 0
        assert counted == whole.usage.input_tokens + cached
        turns.append({"role": "assistant", "content": "17 +"})
        rest = client.messages.create(model="tiny", max_tokens=40, messages=turns, extra_body=greedy)
        assert [block.text.strip() for block in rest.content if block.type == "text"] == ["25 = 42."]
        with client.messages.stream(
            model="tiny",
            max_tokens=60,
            messages=turns[:1],
            tools=[{"name": "add", "input_schema": SUM}],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
        ) as stream:
            called = stream.get_final_message()
        (block,) = called.content
        assert (block.type, called.stop_reason) == ("tool_use", "tool_use")
        jsonschema.validate(block.input if block.type == "tool_use" else None, SUM)


def test_responses(url: str) -> None:
    with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        first = client.responses.create(model="tiny", input=QUESTION, temperature=0)
        assert first.output_text == ANSWER
        with client.responses.stream(model="tiny", input=QUESTION, temperature=0) as stream:
            stream.until_done()
            assert stream.get_final_response().output_text == ANSWER
        second = client.responses.create(
            model="tiny", input="What is 3 + 4?", temperature=0, previous_response_id=first.id
        )
        assert "7" in second.output_text
        assert second.usage is not None
        assert second.usage.input_tokens_details.cached_tokens > 0
        add: FunctionToolParam = {"type": "function", "name": "add", "parameters": SUM, "strict": True}
        with client.responses.stream(
            model="tiny", input=QUESTION, tools=[add], tool_choice={"type": "function", "name": "add"}
        ) as stream:
            (item,) = stream.get_final_response().output
        assert item.type == "function_call"
        jsonschema.validate(json.loads(item.arguments), SUM)


def test_tgi(url: str) -> None:
    with InferenceClient(model=url, token="none") as client:
        whole = client.text_generation("What is", max_new_tokens=12, details=True, decoder_input_details=True)
        assert whole.details is not None
        assert whole.details.prefill[-1].text == "is"
        assert len(whole.details.tokens) == whole.details.generated_tokens
        assert "".join(client.text_generation("What is", max_new_tokens=12, stream=True)) == whole.generated_text
        said = client.text_generation("What is", grammar=GRAMMAR, do_sample=True, max_new_tokens=60)
        jsonschema.validate(json.loads(said), SUM)
        turns = [{"role": "user", "content": QUESTION}]
        assert client.chat_completion(turns, model="tiny", temperature=0).choices[0].message.content == ANSWER
        pieces = client.chat_completion(turns, model="tiny", temperature=0, stream=True)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == ANSWER


def test_ollama(url: str) -> None:
    client = ollama.Client(host=url)
    turns, greedy = [{"role": "user", "content": QUESTION}], ollama.Options(temperature=0)
    assert client.chat("tiny", turns, options=greedy).message.content == ANSWER
    pieces = client.chat("tiny", turns, options=greedy, stream=True)
    assert "".join(piece.message.content or "" for piece in pieces) == ANSWER
    assert client.generate("tiny:latest", QUESTION, options=greedy).response == ANSWER
    jsonschema.validate(json.loads(client.chat("tiny", turns, format=SUM).message.content or ""), SUM)
    client._client.close()


def test_javascript(url: str) -> None:
    node = shutil.which("node")
    assert node, "node is not installed; CONTRIBUTING.md says what the tests need"
    assert (JAVASCRIPT / "node_modules" / "openai").is_dir(), "run `make javascript` first"
    said = script(node, "client.mjs", url, "tiny", cwd=JAVASCRIPT)
    assert (said["chat"], said["streamed"], said["responses"]) == (ANSWER, ANSWER, ANSWER)
    assert said["logprobs"].startswith(ANSWER)
    assert said["usage"]
    assert (said["call"], said["sum"], said["required"]) == ("add", "number", [["add", "number"]])
    assert said["formed"] == "number"
    assert said["completions"] == [True, True]
    assert (said["last"], "7" in said["next"], said["models"]) == ("response.completed", True, ["tiny"])
    assert said["bad"] == ["BadRequestError", 400, "n"]
    assert said["unknown"][:2] == ["NotFoundError", 404]
    assert said["aborted"]


def test_litellm(url: str) -> None:
    said = script(sys.executable, "litellm_client.py", url, cwd=HERE, LITELLM_LOCAL_MODEL_COST_MAP="True")
    for dialect in ("openai", "anthropic"):
        chat = {"whole": ANSWER, "streamed": ANSWER, "calls": [["add", "int"], ["add", "int"]]}
        assert said[dialect] == chat
    assert (said["text"], said["refused"]) == ("What is", "BadRequestError")


def script(*words: str, cwd: Path, **environment: str) -> dict[str, Any]:
    """The JSON object that a client's script printed last."""
    ran = subprocess.run(
        words, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return said


def test_batch_on_the_engine_and_at_the_url(engine: Path, url: str, tmp_path: Path) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    lines = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body} for number in range(3)
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for where in (["--engine", str(engine)], ["--url", url]):
        out = tmp_path / f"{where[0]}.jsonl"
        with ingot("batch", str(tmp_path / "in.jsonl"), "-o", str(out), *where) as batch:
            _, told = batch.communicate(timeout=120)
        assert batch.returncode == 0, told
        answers = [json.loads(line)["response"]["body"] for line in out.read_text().splitlines()]
        assert [answer["choices"][0]["message"]["content"] for answer in answers] == [ANSWER] * 3
