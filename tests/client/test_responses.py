"""/v1/responses as the official client sees it, over a real socket."""

from __future__ import annotations

import time
from typing import get_type_hints

import httpx
import openai
import pytest
from openai.types.responses import Response, response_create_params
from tests.client.fake_backend import NAME, FakeBackend
from tests.client.served import served

from ingot.client.openai.gate import GateOptions
from ingot.client.openai.responses import Answer
from ingot.client.openai.responses_store import ResponseStore, Stored
from ingot.client.openai.schema_responses import REFUSED_RESPONSES, ResponsesRequest
from ingot.errors import ExecutorDiedError, QueueFullError

BODY = {"model": NAME, "input": "hi"}


def test_answer(client: openai.OpenAI, backend: FakeBackend) -> None:
    reply = client.responses.create(
        model=NAME, input="héllo", instructions="Shout.", temperature=0.5, top_p=0.9, max_output_tokens=20
    )
    assert (reply.output_text, reply.status, reply.object) == ("HÉLLO", "completed", "response")
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.total_tokens) == (5, 5, 10)
    assert reply.usage.input_tokens_details.cached_tokens == 1
    request = backend.seen[-1]
    assert request.prompt.messages == [{"role": "system", "content": "Shout."}, {"role": "user", "content": "héllo"}]
    assert (request.params.temperature, request.params.top_p, request.params.max_tokens) == (0.5, 0.9, 20)


def test_stream_says_the_same(client: openai.OpenAI, backend: FakeBackend) -> None:
    with client.responses.stream(model=NAME, input="hello") as stream:
        events = [*stream]
        final = stream.get_final_response()
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "HELLO"
    assert [event.sequence_number for event in events] == [*range(len(events))]
    assert final.output_text == "HELLO"
    assert client.responses.retrieve(final.id).output_text == "HELLO"


def test_an_answer_cut_by_its_limit_is_incomplete(client: openai.OpenAI, backend: FakeBackend) -> None:
    reply = client.responses.create(model=NAME, input="hello", max_output_tokens=2)
    assert (reply.output_text, reply.status) == ("HE", "incomplete")
    assert reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens"
    events = [*client.responses.create(model=NAME, input="hello", max_output_tokens=2, stream=True)]
    assert events[-1].type == "response.incomplete"


def test_a_conversation_goes_on_from_its_last_answer(client: openai.OpenAI, backend: FakeBackend) -> None:
    first = client.responses.create(model=NAME, input="one", instructions="Not carried over.")
    second = client.responses.create(model=NAME, input="two", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert backend.seen[-1].prompt.messages == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "ONE"},
        {"role": "user", "content": "two"},
    ]


def test_answers_can_be_sent_back_as_items(client: openai.OpenAI, backend: FakeBackend) -> None:
    first = client.responses.create(model=NAME, input="one", store=False)
    items = [item.model_dump(exclude_none=True) for item in first.output]
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    turns = [*items, {"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}]
    client.responses.create(model=NAME, input=turns)  # type: ignore[arg-type]
    assert backend.seen[-1].prompt.messages == [
        {"role": "assistant", "content": "ONE"},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "a\nb"},
    ]


def test_stored_answers_are_retrieved_and_deleted(client: openai.OpenAI, backend: FakeBackend) -> None:
    kept = client.responses.create(model=NAME, input="one", metadata={"job": "7"})
    assert client.responses.retrieve(kept.id) == kept
    client.responses.delete(kept.id)
    unkept = client.responses.create(model=NAME, input="one", store=False)
    for gone in (kept.id, unkept.id, "resp_never"):
        with pytest.raises(openai.NotFoundError, match="is stored"):
            client.responses.retrieve(gone)
        with pytest.raises(openai.NotFoundError):
            client.responses.create(model=NAME, input="two", previous_response_id=gone)


def ended(client: openai.OpenAI, response_id: str) -> Response:
    for _ in range(500):
        reply = client.responses.retrieve(response_id)
        if reply.status not in ("queued", "in_progress"):
            return reply
        time.sleep(0.01)
    raise AssertionError("it still runs")


def test_background(client: openai.OpenAI, backend: FakeBackend) -> None:
    begun = client.responses.create(model=NAME, input="hello", background=True)
    assert (begun.status, begun.output) == ("queued", [])
    assert ended(client, begun.id).output_text == "HELLO"
    backend.error = ExecutorDiedError("It died.", mend="Send it again.")
    failed = ended(client, client.responses.create(model=NAME, input="hello", background=True).id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert "It died" in failed.error.message


def test_cancel_gives_the_engine_back(client: openai.OpenAI, backend: FakeBackend) -> None:
    backend.delay = 60
    begun = client.responses.create(model=NAME, input="hello", background=True)
    while not backend.live:
        time.sleep(0.005)
    with pytest.raises(openai.BadRequestError, match="in_progress"):
        client.responses.create(model=NAME, input="more", previous_response_id=begun.id)
    assert client.responses.cancel(begun.id).status == "cancelled"
    assert client.responses.retrieve(begun.id).status == "cancelled"
    assert backend.live == 0
    backend.delay = 0
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(client.responses.create(model=NAME, input="hello").id)


def test_tokens_are_counted(client: openai.OpenAI, backend: FakeBackend) -> None:
    assert client.responses.input_tokens.count(model=NAME, input="hello").input_tokens == 5
    assert backend.seen == []


def test_every_official_field_is_used_or_refused() -> None:
    kinds = (
        response_create_params.ResponseCreateParamsNonStreaming,
        response_create_params.ResponseCreateParamsStreaming,
    )
    official = {name for kind in kinds for name in get_type_hints(kind)}
    assert len(official) > 15
    assert official <= ResponsesRequest.model_fields.keys() | REFUSED_RESPONSES.keys()
    assert not ResponsesRequest.model_fields.keys() & REFUSED_RESPONSES.keys()


@pytest.mark.parametrize("name", sorted(REFUSED_RESPONSES))
def test_refused_fields_are_refused_by_name(http: httpx.Client, backend: FakeBackend, name: str) -> None:
    reply = http.post("/v1/responses", json=BODY | {name: ["anything", 1]})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, name)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True, "stream": True}, "background"),
        ({"background": True, "store": False}, "store"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"input": []}, "input"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_contradictions_are_refused(http: httpx.Client, fields: dict[str, object], param: str) -> None:
    reply = http.post("/v1/responses", json=BODY | fields)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith(param)


def test_failures(client: openai.OpenAI, backend: FakeBackend) -> None:
    backend.error = QueueFullError("Full.", mend="Wait.")
    with pytest.raises(openai.RateLimitError, match="Full"):
        client.responses.create(model=NAME, input="hello", stream=True)
    backend.fail_after = 2
    *_, last = client.responses.create(model=NAME, input="hello", stream=True)
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "Full" in last.response.error.message


def test_one_callers_answers_are_hidden_from_another() -> None:
    with (
        served(FakeBackend(), GateOptions(api_keys=("a", "b"))) as url,
        httpx.Client(base_url=url, verify=False) as http,
    ):
        mine, other = ({"Authorization": f"Bearer {key}"} for key in "ab")
        path = "/v1/responses/" + http.post("/v1/responses", json=BODY, headers=mine).json()["id"]
        assert http.get(path, headers=mine).status_code == 200
        assert http.get(path, headers=other).status_code == 404
        assert http.delete(path, headers=other).status_code == 404
        assert http.delete(path, headers=mine).status_code == 200


def test_the_store_is_bounded() -> None:
    def kept(text: str) -> Stored:
        answer = Answer(ResponsesRequest(model=NAME, input=text), [{"role": "user", "content": text}])
        return Stored(b"", answer.begun("completed"), answer.turns)

    store = ResponseStore(max_stored=3, max_bytes=10_000)
    ids = []
    for _ in range(4):
        store.put(stored := kept("x"))
        ids.append(stored.body["id"])
    assert [stays(store, one) for one in ids] == [False, True, True, True]
    store.get(ids[1], b"")
    store.put(kept("x" * 8_500))
    assert [stays(store, one) for one in ids] == [False, True, False, False]


def stays(store: ResponseStore, response_id: str) -> bool:
    return response_id in store._stored
