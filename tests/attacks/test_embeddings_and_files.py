"""The newer routes under the same pass criterion: huge lists, lists of everything, clients that leave, paths and bombs in uploads."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.attacks.conftest import KEY, refused
from tests.engines import NAME

WRONG: list[Any] = [
    *(
        "",
        [],
        {},
        None,
        5,
        True,
        1.5,
        [[]],
        [""],
        [None],
        [[None]],
        [[["deep"]]],
        ["a", 1],
        [1, "a"],
        [[1], "a"],
        [1.5],
    ),
    *([-1], [1 << 31], [1 << 70], [97], ["x" * 513], "x" * 600_000, [list(range(97)) * 60], ["a"] * 2049, ["\ud800"]),
]


@pytest.mark.parametrize("given", WRONG, ids=[repr(one)[:24] for one in WRONG])
def test_what_is_no_text_is_refused(attacked: httpx.Client, given: Any) -> None:
    body = json.dumps({"model": NAME, "input": given}).encode()
    reply = attacked.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
    refused(reply)
    assert (reply.json()["error"]["param"] or "input").startswith("input")


def test_many_huge_lists_leave_room_for_streams(attacked: httpx.Client) -> None:
    """Four lists of 2048 texts at once: all are answered, and the bystander's stream never meets a full queue."""
    replies: list[httpx.Response] = []

    def ask() -> None:
        replies.append(attacked.post("/v1/embeddings", json={"model": NAME, "input": ["a"] * 2048}, timeout=120))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    text = attacked.post("/v1/completions", json={"model": NAME, "prompt": "x", "max_tokens": 20}, timeout=120)
    for thread in threads:
        thread.join()
    assert text.status_code == 200
    assert [reply.status_code for reply in replies] == [200] * 4
    assert {len(reply.json()["data"]) for reply in replies} == {2048}


def test_clients_that_leave_take_their_texts_with_them(attacked: httpx.Client) -> None:
    body = json.dumps({"model": NAME, "input": ["abc " * 100] * 2048}).encode()
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    )
    for pause in (0, 0, 0.05, 0.2):
        with socket.create_connection((attacked.base_url.host, attacked.base_url.port or 80), timeout=20) as raw:
            raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(pause)


def test_dimensions_cannot_be_more_than_there_are(attacked: httpx.Client) -> None:
    for dimensions in (0, -1, 4, 1 << 31, 1 << 70):
        refused(attacked.post("/v1/embeddings", json={"model": NAME, "input": "a", "dimensions": dimensions}))


def test_files_are_closed_to_strangers_and_to_paths(attacked: httpx.Client) -> None:
    for path in ("/v1/files", "/v1/files/x/content", "/v1/batches", "/v1/batches/x"):
        assert httpx.get(f"{attacked.base_url}{path}").status_code == 401
    for path in ("/v1/files/..%2F..%2Fetc%2Fpasswd/content", "/v1/files/%00", f"/v1/files/{'a' * 60_000}"):
        assert attacked.get(path).status_code in (400, 404, 414)


def test_nothing_is_read_from_disk_for_a_file_url(attacked: httpx.Client, tmp_path: Path) -> None:
    """A file id is looked up, never opened."""
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    body = {"input_file_id": f"file://{secret}", "endpoint": "/v1/completions", "completion_window": "24h"}
    assert "hidden" not in attacked.post("/v1/batches", json=body).text
