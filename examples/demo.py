"""Serves an engine and talks to it as an application would, through the official OpenAI client.

python examples/demo.py ENGINE

Exits 0 only if every answer is right.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from rich.console import Console
from rich.table import Table

START_SECONDS = 60.0

# Each conversation is a list of (question, text the answer must contain).
CONVERSATIONS = [
    [("What is 17 + 25?", "42")],
    [("What is the capital of France?", "Paris")],
    [("My name is Ada.", "Ada"), ("What is my name?", "Ada")],
]


@dataclass(frozen=True, slots=True)
class Answer:
    question: str
    expected: str
    text: str
    ttft_ms: float
    tokens: int
    seconds: float

    @property
    def right(self) -> bool:
        return self.expected in self.text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def served(engine: str) -> Iterator[str]:
    """Runs `ingot serve` until the block ends; yields the endpoint's base URL once it is healthy."""
    port = free_port()
    ingot = Path(sys.executable).parent / "ingot"
    server = subprocess.Popen([ingot, "serve", engine, "--port", str(port)])
    try:
        wait_until_healthy(server, f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=30)


def wait_until_healthy(server: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit(f"the server exited with code {server.returncode} before it was ready")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.1)
    sys.exit(f"the server was not ready within {START_SECONDS:.0f} s")


def ask(client: OpenAI, model: str, messages: list[ChatCompletionMessageParam], expected: str) -> Answer:
    """Streams one answer and prints it as it comes."""
    question = str(messages[-1].get("content"))
    print(f"\n  {question}\n  > ", end="", flush=True)
    start = time.perf_counter()
    first, text, tokens = 0.0, "", 0
    stream = client.chat.completions.create(
        model=model, messages=messages, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        piece = chunk.choices[0].delta.content if chunk.choices else None
        if piece:
            first = first or time.perf_counter()
            text += piece
            print(piece, end="", flush=True)
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
    end = time.perf_counter()
    print()
    return Answer(question, expected, text, (first - start) * 1e3, tokens, end - start)


def converse(client: OpenAI, model: str) -> list[Answer]:
    answers = []
    for conversation in CONVERSATIONS:
        messages: list[ChatCompletionMessageParam] = []
        for question, expected in conversation:
            messages.append({"role": "user", "content": question})
            answers.append(ask(client, model, messages, expected))
            messages.append({"role": "assistant", "content": answers[-1].text})
    return answers


def report(answers: list[Answer]) -> None:
    table = Table("question", "answer", "must contain", "TTFT", "tokens/s", "right", title="The demo's answers")
    for answer in answers:
        speed = f"{answer.tokens / answer.seconds:.0f}"
        verdict = "[green]yes" if answer.right else "[red]no"
        table.add_row(answer.question, answer.text, answer.expected, f"{answer.ttft_ms:.0f} ms", speed, verdict)
    Console().print(table)


def main() -> None:
    with served(sys.argv[1]) as url:
        client = OpenAI(base_url=url, api_key="none")
        model = client.models.list().data[0].id
        print(f"\nAsking {model} at {url}")
        answers = converse(client, model)
    report(answers)
    sys.exit(0 if all(answer.right for answer in answers) else 1)


if __name__ == "__main__":
    main()
