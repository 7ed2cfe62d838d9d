"""A finished sequence as the client library returns it, put together from its chunks."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ingot.runtime.request import Chunk, Logprob, Usage


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One of params.n answers, whole."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str  # stop | length | abort
    stop_reason: str | int | None  # the stop string or token id that ended it
    logprobs: list[Logprob] | None
    prompt_token_ids: list[int] | None
    prompt_logprobs: list[Logprob | None] | None
    usage: Usage | None


def collect(chunks: Iterable[Chunk]) -> list[Generation]:
    """Chunks of all sequences, interleaved, to one Generation each, in the order of their indices."""
    by_index: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        by_index.setdefault(chunk.index, []).append(chunk)
    return [join(own) for _, own in sorted(by_index.items())]


def join(chunks: list[Chunk]) -> Generation:
    first, last = chunks[0], chunks[-1]
    logprobs = [logprob for chunk in chunks for logprob in chunk.logprobs or ()]
    return Generation(
        index=first.index,
        text="".join(chunk.text for chunk in chunks),
        token_ids=[token for chunk in chunks for token in chunk.token_ids],
        finish_reason=last.finish_reason or "abort",
        stop_reason=last.stop_reason,
        logprobs=logprobs if any(chunk.logprobs is not None for chunk in chunks) else None,
        prompt_token_ids=first.prompt_token_ids,
        prompt_logprobs=first.prompt_logprobs,
        usage=last.usage,
    )
