"""Our chunks to OpenAI's reply bodies and the pieces that replies and events share: pure functions, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ingot.client.openai.answers import AS_TEXT, Reading
from ingot.runtime.request import Chunk, Logprob, Usage


@dataclass(slots=True)
class Outcome:
    """All that one sequence said."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    prompt_token_ids: list[int] = field(default_factory=list)
    prompt_logprobs: list[Logprob | None] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    usage: Usage | None = None

    def add(self, chunk: Chunk) -> None:
        self.text += chunk.text
        self.token_ids += chunk.token_ids
        self.logprobs += chunk.logprobs or []
        if chunk.prompt_token_ids is not None:
            self.prompt_token_ids = chunk.prompt_token_ids
        if chunk.prompt_logprobs is not None:
            self.prompt_logprobs = chunk.prompt_logprobs
        if chunk.finish_reason is not None:
            self.finish_reason, self.stop_reason, self.usage = chunk.finish_reason, chunk.stop_reason, chunk.usage


@dataclass(slots=True)
class UsageSum:
    """Over the sequences of one answer: a prompt counts once, however many samples grow from it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def add(self, usage: Usage, *, prompt: bool = True) -> None:
        self.completion_tokens += usage.completion_tokens
        if prompt:
            self.prompt_tokens += usage.prompt_tokens
            self.cached_tokens += usage.cached_tokens

    def body(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


def sum_usage(outcomes: list[list[Outcome]]) -> UsageSum:
    """Over prompts, and the samples of each."""
    total = UsageSum()
    for samples in outcomes:
        for i, outcome in enumerate(samples):
            if outcome.usage is not None:
                total.add(outcome.usage, prompt=i == 0)
    return total


def chat_logprobs(logprobs: list[Logprob]) -> dict[str, Any]:
    def entry(one: Logprob) -> dict[str, Any]:
        return {"token": one.text, "logprob": floor(one.logprob), "bytes": one.bytes}

    content = [{**entry(one), "top_logprobs": [entry(other) for other in one.top]} for one in logprobs]
    return {"content": content, "refusal": None}


def completion_logprobs(logprobs: list[Logprob | None], *, offset: int, first_text: str = "") -> dict[str, Any]:
    """`offset` is where in the choice's text the first token begins; the first prompt token has no log-probability."""
    offsets, tokens = [], []
    for one in logprobs:
        text = first_text if one is None else one.text
        offsets.append(offset)
        tokens.append(text)
        offset += len(text)
    return {
        "text_offset": offsets,
        "token_logprobs": [None if one is None else floor(one.logprob) for one in logprobs],
        "tokens": tokens,
        "top_logprobs": [None if one is None else best_of(one) for one in logprobs],
    }


def best_of(one: Logprob) -> dict[str, float]:
    """Best first; the sampled token is always among them."""
    return {other.text: floor(other.logprob) for other in [*one.top, one]}


def prompt_logprobs_body(logprobs: list[Logprob | None]) -> list[dict[str, Any] | None]:
    """vLLM's shape: per prompt token, token id -> log-probability, rank and text."""

    def entry(one: Logprob) -> dict[str, Any]:
        return {"logprob": floor(one.logprob), "rank": one.rank, "decoded_token": one.text}

    return [
        None if one is None else {str(other.token_id): entry(other) for other in [one, *one.top]} for one in logprobs
    ]


def floor(logprob: float) -> float:
    """JSON has no minus infinity; OpenAI's documented stand-in is -9999."""
    return max(logprob, -9999.0)


def chat_body(
    head: dict[str, Any],
    outcomes: list[Outcome],
    *,
    logprobs: bool,
    token_ids: bool,
    reading: Reading = AS_TEXT,
) -> dict[str, Any]:
    choices = []
    for i, outcome in enumerate(outcomes):
        message, finish_reason = reading.message(outcome.text, outcome.finish_reason)
        choice: dict[str, Any] = {
            "index": i,
            "message": message,
            "logprobs": chat_logprobs(outcome.logprobs) if logprobs else None,
            "finish_reason": finish_reason,
            "stop_reason": outcome.stop_reason,
        }
        if token_ids:
            choice["token_ids"] = outcome.token_ids
        choices.append(choice)
    body = {**head, "choices": choices, "usage": sum_usage([outcomes]).body()}
    if outcomes[0].prompt_logprobs is not None:
        body["prompt_logprobs"] = prompt_logprobs_body(outcomes[0].prompt_logprobs)
    if token_ids:
        body["prompt_token_ids"] = outcomes[0].prompt_token_ids
    return body


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionAsk:
    """What of a completions request shapes its reply."""

    echo: bool
    scores_only: bool  # max_tokens 0: the one token sampled is left out
    logprobs: bool
    prompt_logprobs: bool  # vLLM's field, not echo's
    token_ids: bool


def completion_choice(index: int, outcome: Outcome, prompt_text: str, ask: CompletionAsk) -> dict[str, Any]:
    said = [] if ask.scores_only else outcome.logprobs
    shown: list[Logprob | None] = [*(outcome.prompt_logprobs or []), *said] if ask.echo else [*said]
    text = "" if ask.scores_only else outcome.text
    choice: dict[str, Any] = {
        "index": index,
        "text": prompt_text + text if ask.echo else text,
        "logprobs": None,
        "finish_reason": "length" if ask.scores_only else outcome.finish_reason,
        "stop_reason": None if ask.scores_only else outcome.stop_reason,
    }
    if ask.logprobs:
        choice["logprobs"] = completion_logprobs(shown, offset=0, first_text=first_token_text(outcome, prompt_text))
    if ask.prompt_logprobs and outcome.prompt_logprobs is not None:
        choice["prompt_logprobs"] = prompt_logprobs_body(outcome.prompt_logprobs)
    if ask.token_ids:
        choice["token_ids"] = [] if ask.scores_only else outcome.token_ids
        choice["prompt_token_ids"] = outcome.prompt_token_ids
    return choice


def first_token_text(outcome: Outcome, prompt_text: str) -> str:
    """What of the prompt's text the tokens after the first leave over; a token that begins every text has none."""
    rest = sum(len(one.text) for one in outcome.prompt_logprobs or [] if one is not None)
    return prompt_text[: max(len(prompt_text) - rest, 0)]
