"""What stands before any backend: what one request may ask for, its line in the log, its trace. Knows no HTTP, no engine."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextvars import ContextVar
from dataclasses import dataclass, field

import msgspec

from ingot.client.backend import Backend, Health, ModelCard
from ingot.client.tgi.metrics import with_tgi_names
from ingot.client.tracing import Tracing, open_tracing
from ingot.errors import RequestError
from ingot.runtime.grammars.check import MAX_CHARS, MAX_DEPTH, check_grammar
from ingot.runtime.logs import FIELDS
from ingot.runtime.request import Chunk, EmbedRequest, GenerateRequest, Prompt
from ingot.runtime.validate import MAX_LOGPROBS, MAX_N, MAX_STOPS

TRACE_CONTEXT: ContextVar[dict[str, str]] = ContextVar("trace context", default={})  # noqa: B039 - always set anew
logger = logging.getLogger("ingot.prompts")


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestLimits:
    """The defaults are the most that the runtime takes."""

    n: int = MAX_N
    top_logprobs: int = MAX_LOGPROBS  # of answers and of prompts
    stop_strings: int = MAX_STOPS
    schema_chars: int = MAX_CHARS  # of a schema, an expression or a grammar
    schema_depth: int = MAX_DEPTH  # of nested schemas


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontOptions:
    limits: RequestLimits = field(default_factory=RequestLimits)
    log_prompts: bool = False
    tgi_metrics: bool = False  # figures under TGI's names too
    traces_endpoint: str | None = None  # of an OTLP collector over HTTP
    tracing: Tracing | None = None  # to use instead of opening one


class Front:
    """A Backend around another. What it lets pass, it passes on as it is."""

    def __init__(self, backend: Backend, options: FrontOptions | None = None) -> None:
        """Raises DependencyError where traces are asked for and OpenTelemetry is missing."""
        self._backend = backend
        self._options = options or FrontOptions()
        endpoint = self._options.traces_endpoint
        self._tracing = self._options.tracing or (open_tracing(endpoint) if endpoint else None)

    async def start(self) -> None:
        await self._backend.start()

    async def stop(self, drain_seconds: float) -> None:
        await self._backend.stop(drain_seconds)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)

    async def models(self) -> list[ModelCard]:
        return await self._backend.models()

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """Raises RequestError at once for a request that is beyond the limits."""
        if self._options.log_prompts:
            prompt = msgspec.to_builtins(request.prompt)
            logger.info("%s prompt %s", request.request_id, json.dumps(prompt), extra={FIELDS: {"prompt": prompt}})
        check_request(request, self._options.limits)
        chunks = self._backend.generate(request)
        return chunks if self._tracing is None else self._tracing.follow(request, chunks, TRACE_CONTEXT.get())

    async def embed(self, request: EmbedRequest) -> Chunk:
        return await self._backend.embed(request)

    async def tokenize(self, model: str, prompt: Prompt) -> list[int]:
        return await self._backend.tokenize(model, prompt)

    async def detokenize(self, model: str, token_ids: list[int]) -> str:
        return await self._backend.detokenize(model, token_ids)

    async def health(self) -> Health:
        return await self._backend.health()

    async def metrics(self) -> bytes:
        text = await self._backend.metrics()
        return with_tgi_names(text) if self._options.tgi_metrics else text


def check_request(request: GenerateRequest, limits: RequestLimits) -> None:
    """Raises RequestError, naming the field."""
    params = request.params
    for name, given, allowed in (
        ("n", params.n, limits.n),
        ("logprobs", params.logprobs or 0, limits.top_logprobs),
        ("prompt_logprobs", params.prompt_logprobs or 0, limits.top_logprobs),
        ("stop", len(params.stop), limits.stop_strings),
    ):
        if given > allowed:
            raise RequestError(
                f"{name} asks for {given}; this server allows {allowed}.", param=name, mend=f"Lower {name}."
            )
    if params.grammar is not None:
        check_grammar(params.grammar, max_chars=limits.schema_chars, max_depth=limits.schema_depth)
