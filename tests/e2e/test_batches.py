"""Files and batches through `ingot serve` with the bundled model and the official client: whole, and killed in the middle."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import psutil
from openai.types import Batch
from tests.e2e.cli import ingot
from tests.waiting import until

KEY = "only-for-this-test"
QUESTION = {"role": "user", "content": "What is 17 + 25?"}


@contextmanager
def served(engine: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[str], openai.OpenAI]]:
    words = ["--port", "0", "--served-model-name", "tiny", "--log-level", "warning", "--batch-dir", str(folder)]
    with ingot("serve", str(engine), *words, INGOT_API_KEY=KEY) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if line.startswith("ingot serves"))
            (url,) = re.findall(r"http://\S+/v1", line)
            with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
                yield process, client
        finally:
            kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """As the kernel would: the server first, then whatever it leaves."""
    if process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        psutil.wait_procs(children, timeout=20)


def lines(endpoint: str, bodies: list[dict[str, Any]]) -> bytes:
    rows = [
        {"custom_id": f"{i:04}", "method": "POST", "url": endpoint, "body": {"model": "tiny", **body}}
        for i, body in enumerate(bodies)
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def start(client: openai.OpenAI, endpoint: Any, bodies: list[dict[str, Any]]) -> Batch:
    uploaded = client.files.create(file=("in.jsonl", lines(endpoint, bodies)), purpose="batch")
    return client.batches.create(input_file_id=uploaded.id, endpoint=endpoint, completion_window="24h")


def finished(client: openai.OpenAI, batch: Batch) -> Batch:
    deadline = time.monotonic() + 120
    while batch.status not in ("completed", "failed"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed", batch
    return batch


def answers(client: openai.OpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    """By custom_id; each comes once."""
    rows = [json.loads(line) for line in client.files.content(file_id or "").text.splitlines()]
    found = {row["custom_id"]: row["response"] for row in rows}
    assert len(found) == len(rows)
    return found


def test_a_batch_of_every_endpoint_and_a_kill_in_the_middle(engine: Path, tmp_path: Path) -> None:
    chat = [{"messages": [QUESTION], "temperature": 0}, {"messages": [QUESTION], "temperature": 99}]
    texts = [{"prompt": f"What is {i}?", "temperature": 0, "max_tokens": 24, "ignore_eos": True} for i in range(120)]
    with served(engine, tmp_path / "batches") as (process, client):
        first = finished(client, start(client, "/v1/chat/completions", chat))
        assert first.request_counts is not None
        assert (first.request_counts.completed, first.request_counts.failed) == (1, 1)
        good = answers(client, first.output_file_id)["0000"]
        assert good["body"]["choices"][0]["message"]["content"] == "17 + 25 = 42."
        bad = answers(client, first.error_file_id)["0001"]
        assert (bad["status_code"], bad["body"]["error"]["param"]) == (400, "temperature")
        vectors = finished(client, start(client, "/v1/embeddings", [{"input": ["a", "b"]}, {"input": "c"}]))
        alone = client.embeddings.create(model="tiny", input="c").data[0].embedding
        (found,) = answers(client, vectors.output_file_id)["0001"]["body"]["data"]
        assert max(abs(a - b) for a, b in zip(found["embedding"], alone, strict=True)) < 1e-5
        long = start(client, "/v1/completions", texts)
        until(lambda: (counts := client.batches.retrieve(long.id).request_counts) and counts.completed >= 10)
        kill(process)
    with served(engine, tmp_path / "batches") as (_, client):
        assert client.batches.retrieve(long.id).status == "in_progress"
        done = finished(client, long)
        assert done.request_counts is not None
        assert (done.request_counts.completed, done.request_counts.failed) == (120, 0)
        found_texts = answers(client, done.output_file_id)
        assert sorted(found_texts) == [f"{i:04}" for i in range(120)]
        direct = client.completions.create(
            model="tiny", prompt="What is 7?", temperature=0, max_tokens=24, extra_body={"ignore_eos": True}
        )
        assert found_texts["0007"]["body"]["choices"][0]["text"] == direct.choices[0].text
        assert {one.id for one in client.batches.list()} == {first.id, vectors.id, long.id}
