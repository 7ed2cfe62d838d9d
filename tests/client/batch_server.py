"""A server with a folder of batches over the fake backend, and what its tests ask of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tests.client.fake_backend import NAME, FakeBackend
from tests.client.served import served
from tests.waiting import until

from ingot.client.batches.service import BatchService
from ingot.client.openai.gate import GateOptions

COMPLETIONS = "/v1/completions"


@dataclass
class BatchServer:
    http: httpx.Client
    backend: FakeBackend
    service: BatchService

    def upload(self, lines: list[Any], key: str = "") -> str:
        reply = self.http.post(
            "/v1/files", files={"file": ("in.jsonl", jsonl(lines))}, data={"purpose": "batch"}, headers=auth(key)
        )
        assert reply.status_code == 200, reply.text
        return str(reply.json()["id"])

    def create(self, file_id: str, endpoint: str = COMPLETIONS, key: str = "", **fields: Any) -> dict[str, Any]:
        body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h", **fields}
        reply = self.http.post("/v1/batches", json=body, headers=auth(key))
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def get(self, batch_id: str) -> dict[str, Any]:
        return dict(self.http.get(f"/v1/batches/{batch_id}").json())

    def wait_for(self, batch_id: str, *states: str) -> dict[str, Any]:
        until(lambda: self.get(batch_id)["status"] in states)
        return self.get(batch_id)

    def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        """The answers of a file, sorted by id; none where there is no file."""
        if file_id is None:
            return []
        text = self.http.get(f"/v1/files/{file_id}/content").text
        return sorted((json.loads(line) for line in text.splitlines()), key=lambda one: str(one["custom_id"]))


@contextmanager
def batch_server(
    folder: Path, backend: FakeBackend | None = None, *, concurrency: int = 4, keys: tuple[str, ...] = ()
) -> Iterator[BatchServer]:
    backend = backend or FakeBackend()
    service = BatchService(folder, concurrency=concurrency)
    with served(backend, GateOptions(api_keys=keys), service) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield BatchServer(http, backend, service)


def auth(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def task(custom_id: str, prompt: str = "abc", url: str = COMPLETIONS, **fields: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": NAME, "prompt": prompt, **fields}}


def jsonl(lines: list[Any]) -> bytes:
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
