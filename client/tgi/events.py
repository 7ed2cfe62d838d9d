"""Chunks to TGI's server-sent events: one per token, the last with the whole text."""

from __future__ import annotations

from typing import Any

import msgspec

from ingot.client.dialect import check_whole
from ingot.client.openai.errors import describe
from ingot.client.openai.replies import Outcome
from ingot.client.tgi.convert import failure_body, finish_reason, token_body, top_body
from ingot.client.tgi.schema import Parameters
from ingot.runtime.request import Chunk


def event(body: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(body)


class TokenEvents:
    """A token's text is what the stream gains by it: concatenated, they are the whole text."""

    def __init__(self, asked: Parameters, inputs: str) -> None:
        self._asked, self._inputs = asked, inputs
        self._outcome = Outcome()
        self._index = 0

    def event(self, chunk: Chunk, prompt: int = 0) -> bytes:
        self._outcome.add(check_whole(chunk))
        bodies = []
        for i, one in enumerate(chunk.logprobs or []):
            self._index += 1
            body = {"index": self._index, "token": token_body(one, "" if i else chunk.text), "generated_text": None}
            if self._asked.top_n_tokens:
                body["top_tokens"] = top_body(one)
            bodies.append(body | {"details": None})
        if chunk.finish_reason is not None and bodies:
            self._close(bodies[-1])
        return b"".join(map(event, bodies))

    def _close(self, last: dict[str, Any]) -> None:
        outcome = self._outcome
        reason = finish_reason(outcome.finish_reason, outcome.stop_reason)
        last["token"]["special"] = reason == "eos_token"
        last["generated_text"] = (self._inputs if self._asked.return_full_text else "") + outcome.text
        last["details"] = {
            "finish_reason": reason,
            "generated_tokens": len(outcome.token_ids),
            "seed": self._asked.seed,
            "input_length": len(outcome.prompt_token_ids),
        }

    def end(self) -> bytes:
        return b""

    def error(self, error: Exception) -> bytes:
        status, message, code, _ = describe(error)
        return event(failure_body(status, message, code))
