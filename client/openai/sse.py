"""Chunks to server-sent events, encoded once and by hand: what stays the same within an answer is encoded when it begins."""

from __future__ import annotations

from typing import Any

import msgspec

from ingot.client.openai.answers import AS_TEXT, AnswerReader, Reading, delta_body
from ingot.client.openai.errors import error_event
from ingot.client.openai.replies import (
    CompletionAsk,
    Outcome,
    UsageSum,
    chat_logprobs,
    completion_choice,
    completion_logprobs,
)
from ingot.runtime.request import Chunk

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


def event_parts(head: dict[str, Any]) -> bytes:
    """`data: {...head..., "choices":[` of every event of one answer."""
    return b"data: " + _encode(head)[:-1] + b',"choices":['


class UsageTail:
    """What follows the choices of an event: nothing, a null, or the tokens so far (OpenAI's stream_options)."""

    def __init__(self, *, include: bool, continuous: bool, scores_only: bool = False) -> None:
        """`scores_only`: the one token that is sampled is left out, as from the answer."""
        self.total = UsageSum()
        self._scores_only = scores_only
        self._include, self._continuous = include, include and continuous
        self._prompts_counted: set[int] = set()
        self._prompt_tokens: dict[int, int] = {}
        self._tokens = 0

    def count(self, chunk: Chunk, prompt: int) -> bytes:
        self._tokens += 0 if self._scores_only else len(chunk.token_ids)
        if chunk.prompt_token_ids is not None:
            self._prompt_tokens[prompt] = len(chunk.prompt_token_ids)
        if chunk.usage is not None:
            self.total.add(chunk.usage, prompt=prompt not in self._prompts_counted)
            self._prompts_counted.add(prompt)
            if self._scores_only:
                self.total.completion_tokens = 0
        if self._continuous:
            so_far = UsageSum(prompt_tokens=sum(self._prompt_tokens.values()), completion_tokens=self._tokens)
            return b'],"usage":' + _encode(so_far.body()) + b"}\n\n"
        return b'],"usage":null}\n\n' if self._include else b"]}\n\n"

    def last_event(self, start: bytes) -> bytes:
        return start + b'],"usage":' + _encode(self.total.body()) + b"}\n\n" if self._include else b""


class ChatEvents:
    """The events of one chat answer."""

    def __init__(
        self,
        head: dict[str, Any],
        usage: UsageTail,
        *,
        logprobs: bool,
        token_ids: bool,
        reading: Reading = AS_TEXT,
    ) -> None:
        self._start = event_parts(head)
        self._reading = reading
        self._readers: dict[int, AnswerReader] = {}  # where the text is more than content
        self._usage = usage
        self._logprobs, self._token_ids = logprobs, token_ids
        self._begun: set[int] = set()

    def event(self, chunk: Chunk, prompt: int = 0) -> bytes:
        tail = self._usage.count(chunk, prompt)
        events = b""
        if chunk.index not in self._begun:
            self._begun.add(chunk.index)
            role = b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
            prompt_ids = b'],"prompt_token_ids":' + _encode(chunk.prompt_token_ids) if self._token_ids else b"]"
            events = self._start + role % chunk.index + prompt_ids + tail[1:]
        delta, finish_reason = self._delta(chunk)
        if not (delta != b"{}" or finish_reason or chunk.logprobs or self._token_ids):
            return events
        choice = b'{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b' % (
            chunk.index,
            delta,
            _encode(chat_logprobs(chunk.logprobs)) if self._logprobs and chunk.logprobs else b"null",
            _encode(finish_reason),
        )
        if chunk.finish_reason:
            choice += b',"stop_reason":' + _encode(chunk.stop_reason)
        if self._token_ids:
            choice += b',"token_ids":' + _encode(chunk.token_ids)
        return events + self._start + choice + b"}" + tail

    def _delta(self, chunk: Chunk) -> tuple[bytes, str | None]:
        """The event's delta, and its finish_reason."""
        if not self._reading.needed:
            return b'{"content":' + _encode(chunk.text) + b"}" if chunk.text else b"{}", chunk.finish_reason
        reader = self._readers.setdefault(chunk.index, self._reading.reader())
        delta = reader.push(chunk.text, last=chunk.finish_reason is not None)
        return _encode(delta_body(delta)), self._reading.finish_reason(reader, chunk.finish_reason)

    def end(self) -> bytes:
        return self._usage.last_event(self._start) + DONE

    def error(self, error: Exception) -> bytes:
        return error_event(error) + DONE


class CompletionEvents:
    """The events of one completions answer; choice i * n + j is sample j of prompt i."""

    def __init__(
        self, head: dict[str, Any], usage: UsageTail, *, n: int, prompt_texts: list[str], ask: CompletionAsk
    ) -> None:
        self._start = event_parts(head)
        self._usage = usage
        self._n, self._prompt_texts, self._ask = n, prompt_texts, ask
        self._offsets: dict[int, int] = {}  # of a choice's next token in its text

    def event(self, chunk: Chunk, prompt: int = 0) -> bytes:
        tail = self._usage.count(chunk, prompt)
        index = prompt * self._n + chunk.index
        if index not in self._offsets and self._ask.echo:
            return self._start + self._first(index, chunk, prompt) + tail
        is_first, offset = index not in self._offsets, self._offsets.get(index, 0)
        if not (chunk.text or chunk.finish_reason or chunk.logprobs or self._ask.token_ids):
            return b""
        logprobs = b"null"
        if self._ask.logprobs and chunk.logprobs:
            logprobs = _encode(completion_logprobs([*chunk.logprobs], offset=offset))
        self._offsets[index] = offset + sum(len(one.text) for one in chunk.logprobs or [])
        choice = b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b' % (
            index,
            _encode(chunk.text),
            logprobs,
            _encode(chunk.finish_reason),
        )
        if chunk.finish_reason:
            choice += b',"stop_reason":' + _encode(chunk.stop_reason)
        if self._ask.token_ids:
            choice += b',"token_ids":' + _encode(chunk.token_ids)
            choice += b',"prompt_token_ids":' + _encode(chunk.prompt_token_ids) if is_first else b""
        return self._start + choice + b"}" + tail

    def _first(self, index: int, chunk: Chunk, prompt: int) -> bytes:
        """With echo the first event of a choice carries the prompt."""
        outcome = Outcome()
        outcome.add(chunk)
        choice = completion_choice(index, outcome, self._prompt_texts[prompt], self._ask)
        self._offsets[index] = len(self._prompt_texts[prompt]) + sum(len(one.text) for one in chunk.logprobs or [])
        return _encode(choice)

    def end(self) -> bytes:
        return self._usage.last_event(self._start) + DONE

    def error(self, error: Exception) -> bytes:
        return error_event(error) + DONE
