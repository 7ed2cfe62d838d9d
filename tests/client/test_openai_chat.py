"""Chat completions as the official client sees them, over a real socket."""

from __future__ import annotations

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from tests.client.fake_backend import NAME, FakeBackend
from tests.waiting import until

from ingot.errors import ExecutorDiedError, QueueFullError

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "héllo"}]


def test_answer(client: openai.OpenAI, backend: FakeBackend) -> None:
    reply = client.chat.completions.create(model=NAME, messages=HELLO, n=2)
    assert [choice.message.content for choice in reply.choices] == ["HÉLLO", "HÉLLO"]
    assert [choice.finish_reason for choice in reply.choices] == ["stop", "stop"]
    assert reply.object == "chat.completion"
    assert reply.system_fingerprint == "fp_abc"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (5, 10, 15)
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 1


def test_stream_says_the_same(client: openai.OpenAI, backend: FakeBackend) -> None:
    texts = {0: "", 1: ""}
    finished: dict[int, str | None] = {}
    stream = client.chat.completions.create(
        model=NAME, messages=HELLO, n=2, stream=True, stream_options={"include_usage": True}
    )
    chunks = [*stream]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finished[choice.index] = choice.finish_reason or finished.get(choice.index)
    assert texts == {0: "HÉLLO", 1: "HÉLLO"}
    assert finished == {0: "stop", 1: "stop"}
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (5, 10)


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(client: openai.OpenAI, backend: FakeBackend, stream: bool) -> None:
    if stream:
        chunks = client.chat.completions.create(model=NAME, messages=HELLO, logprobs=True, top_logprobs=2, stream=True)
        found = [
            one
            for chunk in chunks
            for choice in chunk.choices
            if choice.logprobs
            for one in choice.logprobs.content or []
        ]
    else:
        reply = client.chat.completions.create(model=NAME, messages=HELLO, logprobs=True, top_logprobs=2)
        logprobs = reply.choices[0].logprobs
        assert logprobs is not None
        found = logprobs.content or []
    assert [one.token for one in found] == list("HÉLLO")
    assert found[1].bytes == list("É".encode())
    assert [other.logprob for other in found[0].top_logprobs] == [-0.5, -1.5]


def test_every_sampling_field_arrives(client: openai.OpenAI, backend: FakeBackend) -> None:
    client.chat.completions.create(
        model=NAME,
        messages=HELLO,
        temperature=0.25,
        top_p=0.5,
        seed=-7,
        stop=["a", "b"],
        presence_penalty=1,
        frequency_penalty=-1,
        logit_bias={"5": -100},
        max_completion_tokens=9,
        extra_body={
            "top_k": -1,
            "min_p": 0.1,
            "repetition_penalty": 1.1,
            "stop_token_ids": [3],
            "ignore_eos": True,
            "min_tokens": 2,
            "skip_special_tokens": False,
            "include_stop_str_in_output": True,
            "cache_salt": "me",
            "priority": 4,
            "chat_template_kwargs": {"thinking": False},
        },
    )
    (seen,) = backend.seen
    params = seen.params
    assert (params.temperature, params.top_p, params.seed, params.stop) == (0.25, 0.5, -7, ("a", "b"))
    assert (params.presence_penalty, params.frequency_penalty, params.logit_bias) == (1, -1, {5: -100})
    assert (params.max_tokens, params.top_k, params.min_p, params.repetition_penalty) == (9, 0, 0.1, 1.1)
    assert (params.stop_token_ids, params.ignore_eos, params.min_tokens) == ((3,), True, 2)
    assert (params.skip_special_tokens, params.include_stop_in_output) == (False, True)
    assert (seen.cache_salt, seen.priority, seen.prompt.template_args) == ("me", 4, {"thinking": False})


def test_text_parts_and_developer_role(client: openai.OpenAI, backend: FakeBackend) -> None:
    client.chat.completions.create(
        model=NAME,
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        ],
    )
    assert backend.seen[0].prompt.messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a\nb"},
    ]


def test_error_before_the_first_token_has_its_status(client: openai.OpenAI, backend: FakeBackend) -> None:
    backend.error = QueueFullError("The queue is full.", mend="Wait.")
    with pytest.raises(openai.RateLimitError, match="The queue is full") as caught:
        client.chat.completions.create(model=NAME, messages=HELLO, stream=True)
    assert caught.value.response.headers["retry-after"] == "1"


def test_error_in_the_middle_is_an_event(client: openai.OpenAI, backend: FakeBackend, http: httpx.Client) -> None:
    backend.error, backend.fail_after = ExecutorDiedError("The executor died.", mend="Wait."), 2
    with pytest.raises(openai.APIError, match="The executor died"):
        list(client.chat.completions.create(model=NAME, messages=HELLO, stream=True))
    body = {"model": NAME, "messages": HELLO, "stream": True}
    text = http.post("/v1/chat/completions", json=body).text
    assert text.endswith('"param":null,"code":"executor_died"}}\n\ndata: [DONE]\n\n')


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_closes_the_generator(client: openai.OpenAI, backend: FakeBackend, stream: bool) -> None:
    backend.delay = 0.05
    body = {"model": NAME, "messages": [{"role": "user", "content": "x" * 90}], "stream": stream}
    with httpx.Client(timeout=0.12) as raw:
        if stream:
            with raw.stream("POST", f"{client.base_url}chat/completions", json=body) as response:
                next(response.iter_raw())
        else:
            with pytest.raises(httpx.ReadTimeout):
                raw.post(f"{client.base_url}chat/completions", json=body)
    until(lambda: backend.live == 0)
