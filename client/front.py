"""What stands before any backend: what one request may ask for, and its line in the log. Knows no HTTP and no engine."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import msgspec

from ingot.client.backend import Backend, Health, ModelCard
from ingot.errors import RequestError
from ingot.runtime.grammars.check import MAX_CHARS, MAX_DEPTH, check_grammar
from ingot.runtime.logs import FIELDS
from ingot.runtime.request import Chunk, GenerateRequest, Prompt
from ingot.runtime.validate import MAX_LOGPROBS, MAX_N, MAX_STOPS

logger = logging.getLogger("ingot.prompts")


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestLimits:
    """The defaults are the most that the runtime takes."""

    n: int = MAX_N
    top_logprobs: int = MAX_LOGPROBS  # of answers and of prompts
    stop_strings: int = MAX_STOPS
    schema_chars: int = MAX_CHARS  # of a schema, an expression or a grammar
    schema_depth: int = MAX_DEPTH  # of nested schemas


class Front:
    """A Backend around another. What it lets pass, it passes on as it is."""

    def __init__(self, backend: Backend, limits: RequestLimits | None = None, *, log_prompts: bool = False) -> None:
        self._backend = backend
        self._limits = limits or RequestLimits()
        self._log_prompts = log_prompts

    async def start(self) -> None:
        await self._backend.start()

    async def stop(self, drain_seconds: float) -> None:
        await self._backend.stop(drain_seconds)

    async def models(self) -> list[ModelCard]:
        return await self._backend.models()

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """Raises RequestError at once for a request that is beyond the limits."""
        if self._log_prompts:
            prompt = msgspec.to_builtins(request.prompt)
            logger.info("%s prompt %s", request.request_id, json.dumps(prompt), extra={FIELDS: {"prompt": prompt}})
        check_request(request, self._limits)
        return self._backend.generate(request)

    async def tokenize(self, model: str, prompt: Prompt) -> list[int]:
        return await self._backend.tokenize(model, prompt)

    async def detokenize(self, model: str, token_ids: list[int]) -> str:
        return await self._backend.detokenize(model, token_ids)

    async def health(self) -> Health:
        return await self._backend.health()

    async def metrics(self) -> bytes:
        return await self._backend.metrics()


def check_request(request: GenerateRequest, limits: RequestLimits) -> None:
    """Raises RequestError, naming the field."""
    params = request.params
    for field, given, allowed in (
        ("n", params.n, limits.n),
        ("logprobs", params.logprobs or 0, limits.top_logprobs),
        ("prompt_logprobs", params.prompt_logprobs or 0, limits.top_logprobs),
        ("stop", len(params.stop), limits.stop_strings),
    ):
        if given > allowed:
            raise RequestError(
                f"{field} asks for {given}; this server allows {allowed}.", param=field, mend=f"Lower {field}."
            )
    if params.grammar is not None:
        check_grammar(params.grammar, max_chars=limits.schema_chars, max_depth=limits.schema_depth)
