"""A backend for work that can wait: whatever asks through it runs behind everybody else. Knows no batch."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TypeVar

import msgspec

from ingot.client.backend import Backend, Health, ModelCard
from ingot.errors import RequestError
from ingot.runtime.request import Chunk, EmbedRequest, GenerateRequest, Prompt

LAST = 1 << 30  # added to a request's priority; smaller runs sooner, and is preempted later

Asked = TypeVar("Asked", GenerateRequest, EmbedRequest)


class BehindBackend:
    """See client.backend.Backend. Somebody else starts and stops the backend behind this one."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def start(self) -> None:
        pass

    async def stop(self, drain_seconds: float) -> None:
        pass

    async def models(self) -> list[ModelCard]:
        return await self._backend.models()

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        return self._backend.generate(put_behind(request))

    async def embed(self, request: EmbedRequest) -> Chunk:
        return await self._backend.embed(put_behind(request))

    async def tokenize(self, model: str, prompt: Prompt) -> list[int]:
        return await self._backend.tokenize(model, prompt)

    async def detokenize(self, model: str, token_ids: list[int]) -> str:
        return await self._backend.detokenize(model, token_ids)

    async def health(self) -> Health:
        return await self._backend.health()

    async def metrics(self) -> bytes:
        return await self._backend.metrics()


def put_behind(request: Asked) -> Asked:
    """A batch's line may stand behind other lines, not before other people."""
    if not 0 <= request.priority < LAST:
        raise RequestError(
            f"'priority' is {request.priority} in a batch.", mend=f"Give 0 to {LAST - 1}, or none.", param="priority"
        )
    return msgspec.structs.replace(request, priority=request.priority + LAST)
