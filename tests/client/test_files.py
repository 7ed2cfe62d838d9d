"""/v1/files over a real server: what comes in comes out, each key sees its own, and no name reaches a path."""

from __future__ import annotations

import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.client.batch_server import BatchServer, auth, batch_server
from tests.client.fake_backend import FakeBackend
from tests.client.served import served

from ingot.client.batches.files import FileStore
from ingot.client.batches.service import BatchService
from ingot.client.openai.gate import GateOptions
from ingot.errors import DeploymentError, RequestError

PURPOSE = {"purpose": "batch"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchServer]:
    with batch_server(tmp_path_factory.mktemp("batches") / "dir") as server:
        yield server


def send(server: BatchServer, content: bytes = b"hello", name: str = "a.jsonl", **fields: str) -> httpx.Response:
    return server.http.post("/v1/files", files={"file": (name, content)}, data=PURPOSE | fields)


def test_the_official_client_puts_and_gets(server: BatchServer) -> None:
    with openai.OpenAI(base_url=f"{server.http.base_url}/v1", api_key="me", max_retries=0) as client:
        content = bytes(range(256)) * 5000
        made = client.files.create(file=("odd name.jsonl", content), purpose="batch")
        assert (made.bytes, made.filename, made.purpose, made.object) == (
            len(content),
            "odd name.jsonl",
            "batch",
            "file",
        )
        assert made.expires_at == made.created_at + 30 * 24 * 3600
        assert client.files.content(made.id).content == content
        assert client.files.retrieve(made.id) == made
        kept = client.files.create(file=b"x", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
        assert kept.expires_at == kept.created_at + 3600
        assert {one.id for one in client.files.list(purpose="batch", limit=1)} == {made.id, kept.id}  # pages by itself
        assert client.files.delete(made.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.content(made.id)


def test_lists_come_in_pages(server: BatchServer) -> None:
    ids = [str(send(server).json()["id"]) for _ in range(5)]
    everything = [one["id"] for one in server.http.get("/v1/files?order=asc").json()["data"]]
    assert set(ids) <= set(everything)
    first = server.http.get("/v1/files", params={"limit": 2}).json()
    assert (len(first["data"]), first["has_more"], first["last_id"]) == (2, True, first["data"][1]["id"])
    rest = server.http.get("/v1/files", params={"after": first["last_id"]}).json()
    assert not rest["has_more"]
    assert [one["id"] for one in first["data"] + rest["data"]] == everything[::-1]
    assert server.http.get("/v1/files?purpose=batch_output").json()["data"] == []
    for query in ("limit=0", "limit=x", "limit=99999", "order=up", "after=file-1", "colour=red"):
        assert server.http.get(f"/v1/files?{query}").status_code == 400, query


BAD: list[tuple[dict[str, Any], str]] = [
    ({"files": {"file": b"x"}, "data": {"purpose": "fine-tune"}}, "purpose"),
    ({"files": {"file": b"x"}, "data": {"purpose": "batch_output"}}, "purpose"),
    ({"files": {"file": b"x"}}, "purpose"),
    ({"files": {"other": b"x"}, "data": PURPOSE}, "other"),
    ({"files": {"purpose": (None, "batch")}}, "file"),
    ({"files": {"file": b"x"}, "data": PURPOSE | {"colour": "red"}}, "colour"),
    ({"files": {"file": b"x"}, "data": PURPOSE | {"expires_after[seconds]": "3600"}}, "expires_after"),
    (
        {
            "files": {"file": b"x"},
            "data": PURPOSE | {"expires_after[seconds]": "1", "expires_after[anchor]": "created_at"},
        },
        "expires_after",
    ),
]


@pytest.mark.parametrize(("words", "param"), BAD, ids=[f"{param}-{i}" for i, (_, param) in enumerate(BAD)])
def test_bad_uploads_name_their_field(server: BatchServer, words: dict[str, Any], param: str) -> None:
    reply = server.http.post("/v1/files", **words)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"Content-Type": "application/json"}, b"{}"),
        ({"Content-Type": "multipart/form-data"}, b"no boundary"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"not a form"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b""),
    ],
)
def test_what_is_no_form_is_refused(server: BatchServer, headers: dict[str, str], content: bytes) -> None:
    reply = server.http.post("/v1/files", content=content, headers=headers)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_many_parts_are_refused(server: BatchServer) -> None:
    many = [("file", (f"{i}", b"x")) for i in range(50)]
    assert server.http.post("/v1/files", files=many, data=PURPOSE).status_code == 400
    fields = {f"f{i}": "x" for i in range(2000)}
    assert server.http.post("/v1/files", files={"file": b"x"}, data=fields).status_code == 400


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "a/b", "x" * 900, "..", "ü\u202e.jsonl"])
def test_a_files_name_is_a_label_and_no_path(server: BatchServer, name: str, tmp_path: Path) -> None:
    made = send(server, b"evil", name).json()
    content = server.service.files.content(made["id"])
    assert content.read_bytes() == b"evil"
    assert content.parent.name == made["id"]
    assert len(made["filename"]) <= 256


@pytest.mark.parametrize(
    "file_id",
    ["..", "../lock", "..%2F..%2Flock", "%2e%2e%2flock", "file-0", "file-/../../lock", "\x00", "a" * 5000, "lock"],
)
def test_an_id_that_was_never_given_is_not_found(server: BatchServer, file_id: str) -> None:
    path = f"/v1/files/{file_id.encode('unicode_escape').decode() if not file_id.isprintable() else file_id}"
    for method, tail in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        assert server.http.request(method, path + tail).status_code in (404, 405), (method, path)
    assert (server.service.files.content(send(server).json()["id"]).parents[2] / "lock").is_file()


def test_each_key_sees_its_own(tmp_path: Path) -> None:
    with batch_server(tmp_path / "dir", keys=("one", "two")) as server:
        made = server.upload([{"a": 1}], key="one")
        assert server.http.get("/v1/files", headers=auth("one")).json()["data"][0]["id"] == made
        assert server.http.get("/v1/files", headers=auth("two")).json()["data"] == []
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            assert server.http.request(method, f"/v1/files/{made}{path}", headers=auth("two")).status_code == 404
            assert server.http.request(method, f"/v1/files/{made}{path}").status_code == 401
        body = {"input_file_id": made, "endpoint": "/v1/completions", "completion_window": "24h"}
        assert server.http.post("/v1/batches", json=body, headers=auth("two")).status_code == 400
        assert server.http.get(f"/v1/files/{made}/content", headers=auth("one")).status_code == 200
        on_disk = b"".join(path.read_bytes() for path in (tmp_path / "dir").rglob("*") if path.is_file())
        assert b"one" not in on_disk


def test_a_body_past_the_limit_leaves_nothing(tmp_path: Path) -> None:
    service = BatchService(tmp_path / "dir")
    with served(FakeBackend(), GateOptions(max_body_bytes=100_000), service) as url:
        reply = httpx.post(f"{url}/v1/files", files={"file": b"x" * 200_000}, data=PURPOSE)
        assert reply.status_code == 413
        chunked = (b"x" * 1000 for _ in range(200))
        reply = httpx.post(
            f"{url}/v1/files", content=chunked, headers={"Content-Type": "multipart/form-data; boundary=x"}
        )
        assert reply.status_code in (400, 413)
        assert list((tmp_path / "dir" / "files").iterdir()) == []


def test_without_a_folder_the_routes_say_why() -> None:
    with served(FakeBackend()) as url:
        for method, path in (
            ("POST", "/v1/files"),
            ("GET", "/v1/files/a"),
            ("GET", "/v1/batches"),
            ("POST", "/v1/batches"),
        ):
            reply = httpx.request(method, url + path, json={})
            assert (reply.status_code, "--batch-dir" in reply.text) == (404, True), path


def test_one_server_a_folder(tmp_path: Path) -> None:
    first = BatchService(tmp_path / "dir")
    with pytest.raises(DeploymentError, match="Another server"):
        BatchService(tmp_path / "dir")
    first._lock.close()
    BatchService(tmp_path / "dir")._lock.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(DeploymentError, match="cannot be used"):
        BatchService(tmp_path / "file")


def add(store: FileStore, content: bytes = b"x", *, seconds: int | None = None, owner: str = "me") -> str:
    return store.add(BytesIO(content), owner=owner, filename="f", purpose="batch", seconds=seconds).id


def test_files_outlive_the_store_and_half_made_ones_do_not(tmp_path: Path) -> None:
    whole, damaged = add(store := FileStore(tmp_path)), add(store, b"yy")
    (tmp_path / ".part-file-1").mkdir()
    (tmp_path / damaged / "content").write_bytes(b"")
    again = FileStore(tmp_path)
    assert [one.id for one in again.of("me")] == [whole]
    assert not (tmp_path / ".part-file-1").exists()


def test_files_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path)
    gone, kept = add(store, seconds=10), add(store)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 11)
    assert [one.id for one in store.of("me")] == [kept]
    assert not (tmp_path / gone).exists()


def test_room_is_bounded(tmp_path: Path) -> None:
    store = FileStore(tmp_path, max_files=2, max_bytes=10)
    add(store, b"12345")
    with pytest.raises(RequestError, match="used up"):
        add(store, b"123456")
    add(store, b"12345")
    with pytest.raises(RequestError, match="2 files are kept"):
        add(store, b"")
    add(store, b"", owner="another")
    assert not list(tmp_path.glob(".part-*"))
