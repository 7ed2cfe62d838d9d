"""/v1/messages as Anthropic's own client sees it, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_type_hints

import anthropic
import httpx
import pytest
from anthropic.types import MessageParam, message_count_tokens_params, message_create_params
from tests.client.fake_backend import NAME, FakeBackend
from tests.client.served import served

from ingot.client.anthropic.schema import REFUSED_COUNT, REFUSED_MESSAGES, CountTokensRequest, MessagesRequest
from ingot.client.openai.gate import GateOptions
from ingot.errors import ExecutorDiedError, QueueFullError

HELLO: list[MessageParam] = [{"role": "user", "content": "héllo"}]
BODY = {"model": NAME, "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def claude(server: tuple[FakeBackend, str]) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server[1], api_key="none", max_retries=0) as client:
        yield client


def test_answer(claude: anthropic.Anthropic, backend: FakeBackend) -> None:
    reply = claude.messages.create(model=NAME, max_tokens=50, messages=HELLO)
    block = reply.content[0]
    assert block.type == "text"
    assert block.text == "HÉLLO"
    assert (reply.role, reply.stop_reason, reply.stop_sequence, reply.model) == ("assistant", "end_turn", None, NAME)
    usage = reply.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (4, 1, 5)


def test_stream_says_the_same(claude: anthropic.Anthropic, backend: FakeBackend) -> None:
    with claude.messages.stream(model=NAME, max_tokens=3, messages=HELLO) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert stream.get_final_text() == "HÉL"
    assert final.stop_reason == "max_tokens"
    assert (final.usage.input_tokens, final.usage.cache_read_input_tokens, final.usage.output_tokens) == (4, 1, 3)


def test_wire_names_each_event_and_pings(http: httpx.Client, backend: FakeBackend) -> None:
    lines = http.post("/v1/messages", json=BODY | {"stream": True}).text.splitlines()
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert names == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_fields_reach_the_backend(http: httpx.Client, backend: FakeBackend) -> None:
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "stop_sequences": ["END", "STOP"]}
    system = [{"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "kind."}]
    turns = [{"role": "user", "content": "one"}, {"role": "user", "content": [{"type": "text", "text": "two"}]}]
    assert http.post("/v1/messages", json=BODY | fields | {"system": system, "messages": turns}).status_code == 200
    request = backend.seen[-1]
    params = request.params
    assert (params.max_tokens, params.temperature, params.top_p, params.top_k) == (50, 0.5, 0.9, 7)
    assert params.stop == ("END", "STOP")
    assert request.prompt.messages == [
        {"role": "system", "content": "Be\nkind."},
        {"role": "user", "content": "one\ntwo"},
    ]
    assert request.prompt.add_generation_prompt


def test_a_last_assistant_turn_is_continued(claude: anthropic.Anthropic, backend: FakeBackend) -> None:
    claude.messages.create(model=NAME, max_tokens=5, messages=[*HELLO, {"role": "assistant", "content": "It is"}])
    prompt = backend.seen[-1].prompt
    assert prompt.continue_final_message
    assert not prompt.add_generation_prompt


def test_tokens_are_counted(claude: anthropic.Anthropic, backend: FakeBackend) -> None:
    assert claude.messages.count_tokens(model=NAME, messages=HELLO).input_tokens == 5
    assert backend.seen == []


@pytest.mark.parametrize(
    ("kinds", "model", "refused"),
    [
        (
            (
                message_create_params.MessageCreateParamsNonStreaming,
                message_create_params.MessageCreateParamsStreaming,
            ),
            MessagesRequest,
            REFUSED_MESSAGES,
        ),
        ((message_count_tokens_params.MessageCountTokensParams,), CountTokensRequest, REFUSED_COUNT),
    ],
    ids=["messages", "count_tokens"],
)
def test_every_official_field_is_used_or_refused(
    kinds: tuple[type, ...], model: type[CountTokensRequest], refused: dict[str, object]
) -> None:
    official = {name for kind in kinds for name in get_type_hints(kind)}
    assert len(official) > 8
    assert official <= model.model_fields.keys() | refused.keys()
    assert not model.model_fields.keys() & refused.keys()


@pytest.mark.parametrize("name", sorted(REFUSED_MESSAGES))
def test_refused_fields_are_refused_by_name(http: httpx.Client, backend: FakeBackend, name: str) -> None:
    reply = http.post("/v1/messages", json=BODY | {name: ["anything", 1]})
    assert reply.status_code == 400
    error = reply.json()
    assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
    assert f"'{name}'" in error["error"]["message"]


def test_failures_are_the_clients_own(claude: anthropic.Anthropic, backend: FakeBackend) -> None:
    with pytest.raises(anthropic.NotFoundError, match="No model is called"):
        claude.messages.create(model="other", max_tokens=5, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        claude.messages.create(model=NAME, max_tokens=0, messages=HELLO)
    backend.error = QueueFullError("Full.", mend="Wait.")
    with pytest.raises(anthropic.RateLimitError, match="Full"):
        claude.messages.create(model=NAME, max_tokens=5, messages=HELLO)


def test_a_failure_after_the_first_token_is_the_last_event(claude: anthropic.Anthropic, backend: FakeBackend) -> None:
    backend.error, backend.fail_after = ExecutorDiedError("It died.", mend="Send it again."), 2
    said: list[str] = []
    with claude.messages.stream(model=NAME, max_tokens=50, messages=HELLO) as stream:
        with pytest.raises(anthropic.APIStatusError, match="It died"):
            said.extend(stream.text_stream)
        assert said == ["H", "É"]
    assert backend.live == 0


def test_the_key_comes_as_x_api_key() -> None:
    with served(FakeBackend(), GateOptions(api_keys=("right",))) as url:
        with anthropic.Anthropic(base_url=url, api_key="right", max_retries=0) as client:
            assert client.messages.create(model=NAME, max_tokens=5, messages=HELLO).stop_reason == "end_turn"
        with (
            anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0) as client,
            pytest.raises(anthropic.AuthenticationError),
        ):
            client.messages.create(model=NAME, max_tokens=5, messages=HELLO)
