"""Text completions, tokens and models as the official client sees them, over a real socket."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from tests.client.fake_backend import NAME, FakeBackend


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [("abc", ["ABC"]), (["ab", "c"], ["AB", "C"]), ([97, 98], ["AB"]), ([[97], [98, 99]], ["A", "BC"])],
)
@pytest.mark.parametrize("stream", [False, True])
def test_prompts_of_every_kind(client: openai.OpenAI, prompt: Any, texts: list[str], stream: bool) -> None:
    expected = [text for text in texts for _ in range(2)]
    if not stream:
        reply = client.completions.create(model=NAME, prompt=prompt, n=2, best_of=2)
        assert [choice.text for choice in reply.choices] == expected
        assert [choice.index for choice in reply.choices] == [*range(len(expected))]
        assert reply.usage is not None
        assert reply.usage.prompt_tokens == sum(map(len, texts))
        assert reply.usage.completion_tokens == 2 * sum(map(len, texts))
        return
    said = [""] * len(expected)
    chunks = [
        *client.completions.create(model=NAME, prompt=prompt, n=2, stream=True, stream_options={"include_usage": True})
    ]
    for chunk in chunks:
        for choice in chunk.choices:
            said[choice.index] += choice.text
    assert said == expected
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 3 * sum(map(len, texts))


def test_default_is_sixteen_tokens(client: openai.OpenAI) -> None:
    reply = client.completions.create(model=NAME, prompt="x" * 40)
    assert reply.choices[0].text == "X" * 16
    assert reply.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_logprobs(client: openai.OpenAI, stream: bool) -> None:
    ask: dict[str, Any] = {"model": NAME, "prompt": "abc", "echo": True, "logprobs": 1, "max_tokens": 2}
    if stream:
        choices = [choice for chunk in client.completions.create(**ask, stream=True) for choice in chunk.choices]
    else:
        choices = client.completions.create(**ask).choices
    assert "".join(choice.text for choice in choices) == "abcAB"
    logprobs = [choice.logprobs for choice in choices if choice.logprobs]
    assert [token for one in logprobs for token in one.tokens or []] == list("abcAB")
    assert [offset for one in logprobs for offset in one.text_offset or []] == [0, 1, 2, 3, 4]
    assert [value for one in logprobs for value in one.token_logprobs or []] == [None, -0.5, -0.5, -0.5, -0.5]
    assert [best for one in logprobs for best in one.top_logprobs or []][-1] == {"B": -0.5}


def test_scoring_a_prompt_generates_nothing(client: openai.OpenAI, backend: FakeBackend) -> None:
    ask: dict[str, Any] = {"model": NAME, "prompt": "abc", "echo": True, "logprobs": 0, "max_tokens": 0}
    reply = client.completions.create(**ask)
    (choice,) = reply.choices
    assert choice.text == "abc"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["a", "b", "c"]
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 0
    assert backend.seen[-1].params.max_tokens == 1
    told = {"include_usage": True, "continuous_usage_stats": True}
    chunks = [*client.completions.create(**ask, stream=True, stream_options=told)]
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "abc"
    assert [chunk.usage and chunk.usage.completion_tokens for chunk in chunks] == [0, 0]


def test_token_ids_and_prompt_logprobs(http: httpx.Client) -> None:
    ask = {"model": NAME, "prompt": [97, 98], "return_token_ids": True, "prompt_logprobs": 1}
    (choice,) = http.post("/v1/completions", json=ask).json()["choices"]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == ([97, 98], [65, 66])
    events = stream_of(http, "/v1/completions", {"model": NAME, "prompt": [[97], [98]], "return_token_ids": True})
    firsts = {event["choices"][0]["index"]: event["choices"][0] for event in reversed(events)}
    assert [firsts[i]["prompt_token_ids"] for i in range(2)] == [[97], [98]]
    turns = [{"role": "user", "content": "ab"}]
    events = stream_of(http, "/v1/chat/completions", {"model": NAME, "messages": turns, "return_token_ids": True})
    assert [event.get("prompt_token_ids") for event in events] == [[97, 98], None, None]
    assert [event["choices"][0].get("token_ids") for event in events] == [None, [65], [66]]
    assert choice["prompt_logprobs"][0] is None
    assert choice["prompt_logprobs"][1]["98"] == {"logprob": -0.5, "rank": 1, "decoded_token": "b"}


def stream_of(http: httpx.Client, route: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    lines = http.post(route, json=body | {"stream": True}).text.split("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


def test_tokenize_and_back(http: httpx.Client) -> None:
    reply = http.post("/tokenize", json={"model": NAME, "prompt": "ab", "return_token_strs": True}).json()
    assert reply == {"count": 2, "max_model_len": 512, "tokens": [97, 98], "token_strs": ["a", "b"]}
    chat = {"model": NAME, "messages": [{"role": "user", "content": "xy"}]}
    assert http.post("/tokenize", json=chat).json()["tokens"] == [120, 121]
    assert http.post("/detokenize", json={"model": NAME, "tokens": [97, 98]}).json() == {"prompt": "ab"}


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "ingot"
    with pytest.raises(openai.NotFoundError, match="No model is called 'other'"):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="a")


def test_health_follows_the_backend(http: httpx.Client, backend: FakeBackend) -> None:
    assert http.get("/health").status_code == http.get("/ping").status_code == 200
    backend.ready = False
    gone = http.get("/health")
    backend.ready = True
    assert (gone.status_code, gone.json()["detail"]) == (503, "gone")
