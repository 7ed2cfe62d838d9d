"""What goes in and what comes out, at the level of text. The same types on every backend; no torch, no HTTP."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ingot.runtime.params import SamplingParams


class Prompt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Exactly one of text, token_ids and messages is given."""

    text: str | None = None
    token_ids: list[int] | None = None
    messages: list[dict[str, Any]] | None = None  # rendered by the engine's chat template
    tools: list[dict[str, Any]] | None = None
    template_args: dict[str, Any] = {}  # extra names the chat template may read
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = True  # of text prompts; templates write their own


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request: a prompt and how to sample. params.n sequences grow from it."""

    request_id: str
    model: str
    prompt: Prompt
    params: SamplingParams = SamplingParams()
    cache_salt: str | None = None  # requests share cached prefixes only within one salt
    priority: int = 0  # smaller runs sooner


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text whose vector is wanted. It is given as pooled: no scaling, all dimensions."""

    request_id: str
    model: str
    prompt: Prompt
    pooling: str | None = None  # mean | last | cls; None: the engine's own
    truncate: Literal["left", "right"] | None = None  # the side that a text too long loses; None: it is refused
    priority: int = 0  # smaller runs sooner


class Logprob(msgspec.Struct, frozen=True, kw_only=True):
    token_id: int
    text: str
    bytes: list[int]
    logprob: float
    rank: int
    top: list[Logprob] = []


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int  # prompt tokens found in the prefix cache


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """New text of one of a request's sequences. Concatenated texts are the whole text, to the byte."""

    index: int  # which of params.n
    text: str
    token_ids: list[int]
    logprobs: list[Logprob] | None = None
    prompt_token_ids: list[int] | None = None  # on the first chunk of each sequence
    prompt_logprobs: list[Logprob | None] | None = None  # on the first chunk; None for the first token
    finish_reason: str | None = None  # stop | length | abort
    stop_reason: str | int | None = None  # the stop string or token id that ended it
    usage: Usage | None = None  # on the sequence's last chunk
    queue_seconds: float | None = None  # on its first: from the executor's taking the request to the first step for it
    vector: bytes | None = None  # of an EmbedRequest's one chunk: float32, little-endian
