"""`ingot batch`: every request of a file is answered once, whatever stops the runs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.client.fake_backend import NAME, FakeBackend
from tests.client.served import served
from tests.engines import LOADER, worker_path, write_engine
from tests.waiting import MINUTE, until

from ingot.client.batch.command import batch
from ingot.client.batch.engine import run_on_engine
from ingot.client.batch.lines import check_tasks, open_answers, read_tasks
from ingot.client.batch.run import BatchOptions, Tally, run_batch
from ingot.client.openai.gate import GateOptions
from ingot.errors import IngotError, RequestError
from ingot.runtime.supervisor import SupervisorOptions

QUICK = BatchOptions(concurrency=3, tries=3, first_wait=0.001)


def line(number: int, **changes: Any) -> dict[str, Any]:
    body = {"model": NAME, "messages": [{"role": "user", "content": f"hello {number}"}]}
    return {"custom_id": f"job-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body} | changes


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def answers_in(path: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(one) for one in path.read_text().splitlines()]
    assert len({one["custom_id"] for one in lines}) == len(lines), "an answer twice"
    return {one["custom_id"]: one["response"] for one in lines}


class FakeSender:
    """Answers with its own rule: (body) -> status, or an OSError to raise."""

    def __init__(self, rule: Callable[[dict[str, Any]], int | OSError]) -> None:
        self.rule = rule
        self.asked: list[dict[str, Any]] = []

    async def post(self, path: str, body: bytes, request_id: str) -> tuple[int, bytes]:
        self.asked.append(json.loads(body))
        said = self.rule(self.asked[-1])
        if isinstance(said, OSError):
            raise said
        return said, b'{"said": true}'


async def run(requests: Path, out: Path, sender: FakeSender, options: BatchOptions = QUICK) -> Tally:
    with open_answers(out) as (file, done):
        tasks = (task for task in read_tasks(requests) if task.custom_id not in done)
        return await run_batch(tasks, sender, file, options, lambda: None)


def test_over_a_url(tmp_path: Path) -> None:
    lines = [line(number) for number in range(20)]
    lines[3]["body"]["temperature"] = -1
    lines[4] |= {"url": "/v1/completions", "body": {"model": NAME, "prompt": "text"}}
    lines[5] |= {"url": "/v1/responses", "body": {"model": NAME, "input": "item"}}
    requests, out = write(tmp_path / "in.jsonl", lines), tmp_path / "deep" / "out.jsonl"
    with served(FakeBackend(), GateOptions(api_keys=("key",))) as url:
        words = [str(requests), "-o", str(out), "--url", url + "/v1", "--concurrency", "4"]
        denied = CliRunner().invoke(batch, [*words, "--api-key", "wrong"])
        assert isinstance(denied.exception, IngotError)
        assert "401" in str(denied.exception)
        done = CliRunner().invoke(batch, [*words, "--api-key", "key"])
        assert done.exit_code == 0, done.output
        assert "19 answered, 1 refused, 0 left, 0 from earlier" in done.output
        again = CliRunner().invoke(batch, [*words, "--api-key", "key"])
        assert "All 20 are answered" in again.output
    answers = answers_in(out)
    assert answers["job-7"]["body"]["choices"][0]["message"]["content"] == "HELLO 7"
    assert answers["job-4"]["body"]["choices"][0]["text"] == "TEXT"
    assert answers["job-5"]["body"]["output"][0]["content"][0]["text"] == "ITEM"
    assert answers["job-3"]["status_code"] == 400
    assert answers["job-3"]["body"]["error"]["param"] == "temperature"


async def test_on_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", worker_path())
    engine = write_engine(tmp_path / "engine")
    requests = write(tmp_path / "in.jsonl", [line(number) for number in range(5)])
    out = tmp_path / "out.jsonl"
    with open_answers(out) as (file, _):
        tally = await run_on_engine(
            engine, read_tasks(requests), file, QUICK, lambda: None, SupervisorOptions(loader=LOADER)
        )
    assert tally == Tally(answered=5)
    assert {answer["body"]["model"] for answer in answers_in(out).values()} == {"fake"}


async def test_a_run_goes_on_where_the_last_stopped(tmp_path: Path) -> None:
    requests, out = write(tmp_path / "in.jsonl", [line(number) for number in range(6)]), tmp_path / "out.jsonl"
    first = FakeSender(lambda body: 503 if "hello 4" in str(body) else 200)
    assert await run(requests, out, first) == Tally(answered=5, left=1)
    assert len(first.asked) == 5 + QUICK.tries
    whole = out.read_bytes()
    cut = whole[: whole.rindex(b"\n", 0, -1) + 20]  # killed in the middle of the last line
    out.write_bytes(cut)
    second = FakeSender(lambda body: 200)
    assert await run(requests, out, second) == Tally(answered=2)
    assert answers_in(out).keys() == {f"job-{number}" for number in range(6)}
    assert await run(requests, out, second) == Tally()


async def test_a_busy_or_absent_server_is_asked_again(tmp_path: Path) -> None:
    said: list[int | OSError] = [429, ConnectionError("gone"), 200]
    sender = FakeSender(lambda body: said.pop(0))
    assert await run(write(tmp_path / "in.jsonl", [line(0)]), tmp_path / "out.jsonl", sender) == Tally(answered=1)
    assert len(sender.asked) == 3


async def test_the_model_can_be_another(tmp_path: Path) -> None:
    sender = FakeSender(lambda body: 200)
    options = BatchOptions(model="mine")
    await run(write(tmp_path / "in.jsonl", [line(0)]), tmp_path / "out.jsonl", sender, options)
    assert sender.asked[0]["model"] == "mine"


def test_an_interrupt_ends_at_once_and_loses_nothing(tmp_path: Path) -> None:
    backend = FakeBackend()
    requests, out = write(tmp_path / "in.jsonl", [line(number) for number in range(4)]), tmp_path / "out.jsonl"
    with served(backend) as url:
        words = [str(requests), "-o", str(out), "--url", url, "--concurrency", "2"]
        backend.delay = 2 * MINUTE
        process = subprocess.Popen([sys.executable, "-m", "ingot.cli", "batch", *words], stderr=subprocess.PIPE)
        with process:
            try:
                until(lambda: backend.live == 2)
                process.send_signal(signal.SIGINT)
                assert process.wait(MINUTE / 2) == 1
            finally:
                process.kill()
        backend.delay = 0
        assert CliRunner().invoke(batch, words).exit_code == 0
    assert len(answers_in(out)) == 4


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([line(0), line(0)], "given twice"),
        ([line(0), line(1, url="/v1/files")], "line 2: the url"),
        ([line(0, method="GET")], "line 1"),
        ([line(0, body={"stream": True})], "neither streams"),
        ([line(0, extra=1)], "line 1"),
        ([], "holds no request"),
    ],
)
def test_a_file_with_a_wrong_line_is_refused_whole(tmp_path: Path, lines: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check_tasks(write(tmp_path / "in.jsonl", lines))


def test_a_file_of_something_else_is_not_written_to(tmp_path: Path) -> None:
    precious = write(tmp_path / "in.jsonl", [{"letters": "mine"}])
    before = precious.read_bytes()
    with pytest.raises(RequestError, match="no file of answers"), open_answers(precious):
        pass
    assert precious.read_bytes() == before


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    with open_answers(tmp_path / "out.jsonl"), pytest.raises(RequestError, match="Another run"):
        open_answers(tmp_path / "out.jsonl").__enter__()


def test_where_to_ask_is_needed_once(tmp_path: Path) -> None:
    requests = write(tmp_path / "in.jsonl", [line(0)])
    for words in ([], ["--url", "x", "--engine", "y"]):
        said = CliRunner().invoke(batch, [str(requests), "-o", str(tmp_path / "out"), *words])
        assert said.exit_code == 2
        assert "one of --engine and --url" in said.output
