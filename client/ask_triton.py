"""A chat with an engine on a Triton server, over gRPC: what `ingot ask --triton` runs. As client.ask.Chat to its caller."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from ingot.client.ask import Answer
from ingot.client.grpc_sync import Client
from ingot.errors import RequestError
from ingot.runtime.params import SamplingParams


class TritonChat:
    """Questions and answers so far. Leaving ask() early frees what the server holds for it."""

    def __init__(self, address: str, *, model: str | None, system: str | None = None) -> None:
        if not model:
            raise RequestError("Triton serves many models.", mend="Name one: --model NAME.", param="model")
        self.model = model
        self._client = Client(address)
        self._messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []

    def ask(self, question: str, answer: Answer, **sampling: Any) -> Iterator[str]:
        """Pieces of the answer as they come; `answer` holds the figures afterwards."""
        self._messages.append({"role": "user", "content": question})
        params = SamplingParams(**{name: value for name, value in sampling.items() if value is not None})
        began = time.monotonic()
        with self._client.stream(self.model, self._messages, params) as chunks:
            for chunk in chunks:
                if chunk.token_ids:
                    answer.first_token_seconds = answer.first_token_seconds or time.monotonic() - began
                    answer.completion_tokens += len(chunk.token_ids)
                if chunk.text:
                    answer.text += chunk.text
                    yield chunk.text
        answer.seconds = time.monotonic() - began
        self._messages.append({"role": "assistant", "content": answer.text})
