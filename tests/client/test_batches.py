"""/v1/batches over a real server and the fake backend: every state, what is refused, what a stop leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.client.batch_server import COMPLETIONS, BatchServer, auth, batch_server, jsonl, task
from tests.client.fake_backend import NAME, FakeBackend
from tests.waiting import until

from ingot.client.batches.behind import LAST, put_behind
from ingot.client.batches.runner import MAX_DEATHS
from ingot.errors import ExecutorDiedError, QueueFullError, RequestError
from ingot.runtime.request import EmbedRequest, Prompt


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchServer]:
    with batch_server(tmp_path_factory.mktemp("batches") / "dir") as server:
        yield server


@pytest.fixture(autouse=True)
def calm(server: BatchServer) -> Iterator[None]:
    yield
    server.backend.error, server.backend.delay, server.backend.fail_after = None, 0.0, 0
    server.backend.seen.clear()


def test_the_official_client_from_upload_to_answers(server: BatchServer) -> None:
    turns = [{"role": "user", "content": "hi"}]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"model": NAME, "messages": turns},
        "/v1/completions": {"model": NAME, "prompt": "hi"},
        "/v1/embeddings": {"model": NAME, "input": ["hi", "there"]},
        "/v1/responses": {"model": NAME, "input": "hi"},
    }
    with openai.OpenAI(base_url=f"{server.http.base_url}/v1", api_key="me", max_retries=0) as client:
        for endpoint, body in bodies.items():
            lines = [{"custom_id": str(i), "method": "POST", "url": endpoint, "body": body} for i in range(5)]
            lines.append({"custom_id": "bad", "method": "POST", "url": endpoint, "body": {**body, "model": "nobody"}})
            uploaded = client.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
            made = client.batches.create(
                input_file_id=uploaded.id,
                endpoint=endpoint,
                completion_window="24h",
                metadata={"for": "me"},  # type: ignore[arg-type]
            )
            assert made.status == "validating"
            until(lambda made=made: client.batches.retrieve(made.id).status in ("completed", "failed"))  # type: ignore[misc]
            batch = client.batches.retrieve(made.id)
            assert (batch.status, batch.metadata, batch.errors) == ("completed", {"for": "me"}, None)
            assert batch.request_counts is not None
            assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (
                6,
                5,
                1,
            )
            assert batch.output_file_id is not None
            assert batch.error_file_id is not None
            answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
            assert sorted(one["custom_id"] for one in answers) == ["0", "1", "2", "3", "4"]
            assert all(one["response"]["status_code"] == 200 and one["error"] is None for one in answers)
            assert {one["response"]["body"]["model"] for one in answers} == {NAME}
            (error,) = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
            assert (error["custom_id"], error["response"]["status_code"]) == ("bad", 404)
            assert (
                batch.created_at
                <= (batch.in_progress_at or 0)
                <= (batch.finalizing_at or 0)
                <= (batch.completed_at or 0)
            )
        assert [one.endpoint for one in client.batches.list(limit=2)] == list(bodies)[::-1]


def test_batches_run_behind_everybody_else(server: BatchServer) -> None:
    file_id = server.upload([task("a"), task("b", priority=5), task("c", priority=-5)])
    done = server.wait_for(server.create(file_id)["id"], "completed")
    assert sorted(request.priority for request in server.backend.seen) == [LAST, LAST + 5]
    (error,) = server.lines(done["error_file_id"])
    assert (error["custom_id"], error["response"]["body"]["error"]["param"]) == ("c", "priority")
    with pytest.raises(RequestError, match="priority"):
        put_behind(EmbedRequest(request_id="a", model="m", prompt=Prompt(), priority=-1))


BAD_LINES: list[tuple[list[Any], list[tuple[str, int | None]]]] = [
    ([], [("empty_file", None)]),
    ([b"", b"   "], [("empty_file", None)]),
    ([task("a"), b"{not json", task("b"), b"[1]"], [("invalid_line", 2), ("invalid_line", 4)]),
    ([b"\xff\xfe", b"[" * 100_000], [("invalid_line", 1), ("invalid_line", 2)]),
    ([{**task("a"), "method": "GET"}, {**task("b"), "extra": 1}], [("invalid_line", 1), ("invalid_line", 2)]),
    ([{"url": COMPLETIONS}, task("a", url="/v1/files")], [("invalid_line", 1), ("invalid_line", 2)]),
    ([task("a", stream=True)], [("invalid_line", 1)]),
    ([task("a"), task("a"), task("b"), task("b")], [("duplicate_custom_id", 2), ("duplicate_custom_id", 4)]),
    ([task("a", url="/v1/embeddings")], [("mismatched_url", 1)]),
    ([task(""), task("x" * 600)], [("invalid_custom_id", 1), ("invalid_custom_id", 2)]),
]


@pytest.mark.parametrize(
    ("lines", "errors"), BAD_LINES, ids=[found[0][0] + str(i) for i, (_, found) in enumerate(BAD_LINES)]
)
def test_a_file_with_bad_lines_fails_whole_and_names_them(
    server: BatchServer, lines: list[Any], errors: list[tuple[str, int | None]]
) -> None:
    batch = server.wait_for(server.create(server.upload(lines))["id"], "failed")
    assert [(one["code"], one["line"]) for one in batch["errors"]["data"]] == errors
    assert all(one["message"] for one in batch["errors"]["data"])
    assert server.backend.seen == []
    assert (batch["output_file_id"], batch["error_file_id"]) == (None, None)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"input_file_id": "file-none"}, "input_file_id"),
    ({"input_file_id": "../lock"}, "input_file_id"),
    ({"input_file_id": 1}, "input_file_id"),
    ({"endpoint": "/v1/moderations"}, "endpoint"),
    ({"completion_window": "1h"}, "completion_window"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
    ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after.seconds"),
    ({"priority": 1}, "priority"),
]


@pytest.mark.parametrize(("fields", "param"), BAD, ids=[param for _, param in BAD])
def test_bad_batches_name_their_field(server: BatchServer, fields: dict[str, Any], param: str) -> None:
    body = {"input_file_id": "file-x", "endpoint": COMPLETIONS, "completion_window": "24h", **fields}
    reply = server.http.post("/v1/batches", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


def test_cancelling_keeps_the_answers_that_are_there(server: BatchServer) -> None:
    server.backend.delay = 0.02
    made = server.create(server.upload([task(f"{i:04}", "ab") for i in range(2000)]))
    until(lambda: server.get(made["id"])["request_counts"]["completed"] >= 3)
    said = server.http.post(f"/v1/batches/{made['id']}/cancel").json()
    assert said["status"] in ("cancelling", "cancelled")
    batch = server.wait_for(made["id"], "cancelled")
    assert batch["cancelled_at"] is not None
    assert 3 <= len(server.lines(batch["output_file_id"])) == batch["request_counts"]["completed"] < 2000
    again = server.http.post(f"/v1/batches/{made['id']}/cancel")
    assert (again.status_code, "cancelled" in again.text) == (400, True)
    until(lambda: not server.backend.live)


def test_deleting_the_input_does_not_stop_its_batch(server: BatchServer) -> None:
    server.backend.delay = 0.005
    file_id = server.upload([task(str(i)) for i in range(100)])
    made = server.create(file_id, output_expires_after={"anchor": "created_at", "seconds": 7200})
    assert server.http.delete(f"/v1/files/{file_id}").json()["deleted"]
    batch = server.wait_for(made["id"], "completed")
    output = server.http.get(f"/v1/files/{batch['output_file_id']}").json()
    assert (output["purpose"], output["expires_at"] - output["created_at"]) == ("batch_output", 7200)
    assert len(server.lines(batch["output_file_id"])) == 100
    with pytest.raises(AssertionError, match="input_file_id"):
        server.create(batch["output_file_id"])


def test_interactive_requests_are_answered_meanwhile(server: BatchServer) -> None:
    server.backend.delay = 0.01
    made = server.create(server.upload([task(str(i), "abcdef") for i in range(500)]))
    for _ in range(20):
        reply = server.http.post(COMPLETIONS, json={"model": NAME, "prompt": "hi"})
        assert reply.json()["choices"][0]["text"] == "HI"
    assert server.get(made["id"])["status"] == "in_progress"
    assert server.backend.live <= 4
    server.http.post(f"/v1/batches/{made['id']}/cancel")
    server.wait_for(made["id"], "cancelled")


def test_no_room_is_waited_for(server: BatchServer) -> None:
    server.backend.error = QueueFullError("Full.", mend="Wait.")
    made = server.create(server.upload([task("a")]))
    until(lambda: len(server.backend.seen) >= 2)
    server.backend.error = None
    assert server.wait_for(made["id"], "completed")["request_counts"]["completed"] == 1


def test_a_request_that_kills_is_given_up(server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingot.client.batches.runner.FIRST_WAIT", 0.01)
    server.backend.error = ExecutorDiedError("It died.", mend="Again.")
    batch = server.wait_for(server.create(server.upload([task("a")]))["id"], "completed")
    assert batch["request_counts"] == {"total": 1, "completed": 0, "failed": 1}
    assert len(server.backend.seen) == MAX_DEATHS
    assert server.lines(batch["error_file_id"])[0]["response"]["status_code"] == 503


def test_each_key_sees_its_own(tmp_path: Path) -> None:
    with batch_server(tmp_path / "dir", keys=("one", "two")) as server:
        made = server.create(server.upload([task("a")], key="one"), key="one")
        for method, path in (("GET", ""), ("POST", "/cancel")):
            assert (
                server.http.request(method, f"/v1/batches/{made['id']}{path}", headers=auth("two")).status_code == 404
            )
        assert server.http.get("/v1/batches", headers=auth("two")).json()["data"] == []
        assert len(server.http.get("/v1/batches", headers=auth("one")).json()["data"]) == 1


def test_too_many_unfinished_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingot.client.batches.service.MAX_UNFINISHED", 2)
    with batch_server(tmp_path / "dir") as server:
        server.backend.delay = 0.05
        file_id = server.upload([task(str(i)) for i in range(1000)])
        for _ in range(2):
            server.create(file_id)
        body = {"input_file_id": file_id, "endpoint": COMPLETIONS, "completion_window": "24h"}
        assert server.http.post("/v1/batches", json=body).status_code == 429


def test_a_stopped_server_goes_on_where_it_was(tmp_path: Path) -> None:
    """Stopped in the middle, with a line cut off as a kill leaves it: nothing is lost, nothing is answered twice."""
    lines = [task(f"{i:03}", "abc" if i % 10 else "", max_tokens=3 if i % 10 else 0) for i in range(200)]
    backend = FakeBackend()
    backend.delay = 0.005
    with batch_server(tmp_path / "dir", backend) as server:
        made = server.create(server.upload(lines))
        until(lambda: server.get(made["id"])["request_counts"]["completed"] >= 20)
    before = len(backend.seen)
    assert before < 180
    with (tmp_path / "dir" / "batches" / made["id"] / "output.jsonl").open("ab") as file:
        file.write(b'{"custom_id": "150", "resp')
    with batch_server(tmp_path / "dir") as server:
        batch = server.wait_for(made["id"], "completed")
        assert batch["request_counts"] == {"total": 200, "completed": 180, "failed": 20}
        answers = server.lines(batch["output_file_id"]) + server.lines(batch["error_file_id"])
        assert sorted(one["custom_id"] for one in answers) == [line["custom_id"] for line in lines]
        assert len(server.backend.seen) <= 180 - 20
        assert server.get(made["id"])["created_at"] == made["created_at"]
        assert not (tmp_path / "dir" / "batches" / made["id"] / "input.jsonl").exists()


def test_lists_of_batches(server: BatchServer) -> None:
    assert server.http.get("/v1/batches?limit=1").json()["object"] == "list"
    for query in ("limit=0", "limit=101", "after=batch_x", "purpose=batch"):
        assert server.http.get(f"/v1/batches?{query}").status_code == 400
    assert server.http.get("/v1/batches/..%2F..").status_code == 404
    with httpx.Client(base_url=server.http.base_url) as http:
        assert http.get("/v1/batches/batch_none").status_code == 404
