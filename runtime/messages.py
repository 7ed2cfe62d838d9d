"""What the text side and the executor say to each other, at the level of tokens. msgpack on the wire; never pickle."""

from __future__ import annotations

import msgspec

from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import TokenLogprobs


class TokenRequest(msgspec.Struct, frozen=True, kw_only=True, tag="request"):
    """A checked request: the prompt fits the engine, every parameter is in range."""

    request_id: str
    token_ids: list[int]
    params: SamplingParams
    cache_salt: str | None = None
    priority: int = 0
    pooling: str | None = None  # a vector is wanted, no tokens: mean | last | cls


class Abort(msgspec.Struct, frozen=True, kw_only=True, tag="abort"):
    request_id: str
    index: int | None = None  # one of params.n; None: the whole request


class TokenChunk(msgspec.Struct, frozen=True, kw_only=True, tag="chunk", gc=False):
    """Tokens that one step gave one sequence."""

    request_id: str
    index: int
    token_ids: list[int]
    logprobs: list[TokenLogprobs | None] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None  # with the first token; None for the first prompt token
    finish_reason: str | None = None  # stop | length | abort
    stop_reason: int | None = None  # the stop token id, where it was not EOS
    cached_tokens: int = 0
    queue_seconds: float | None = None  # with a sequence's first token: from its request's arrival to its first step
    vector: bytes | None = None  # of a request with pooling: float32, little-endian; it ends the request


class RequestFailed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The executor could not take or finish a request; nothing more follows for it."""

    request_id: str
    code: str  # IngotError.code
    message: str
    mend: str


class Stats(msgspec.Struct, frozen=True, kw_only=True, tag="stats"):
    """Counters since the start and gauges of now; doubles as the executor's heartbeat."""

    running: int
    waiting: int
    pages_free: int
    pages_cached: int  # held by the prefix tree alone: free on demand
    pages_held: int  # by running sequences
    pages_total: int
    preemptions: int
    prefix_queries: int  # prompt tokens looked up
    prefix_hits: int  # prompt tokens found
    steps: int
    prompt_tokens: int
    generation_tokens: int


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The engine is loaded; requests may follow."""

    stats: Stats
    load_seconds: float


class ExecutorFailed(msgspec.Struct, frozen=True, kw_only=True, tag="executor_failed"):
    """The executor's last words: it could not load its engine, or a step raised. Its process ends after this."""

    code: str  # IngotError.code
    message: str
    mend: str


ToExecutor = TokenRequest | Abort
FromExecutor = Ready | TokenChunk | RequestFailed | Stats | ExecutorFailed
