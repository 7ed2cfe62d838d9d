"""The seam between the servers' wire formats and whatever runs the engine. The OpenAI app knows only this."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

import msgspec

from ingot.errors import UnavailableError, UnknownModelError
from ingot.manifest import Embedding
from ingot.runtime.request import Chunk, EmbedRequest, GenerateRequest, Prompt

SWITCHES = ("enable_thinking", "thinking", "reasoning_effort")  # names by which templates are told how much to think


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    created: int  # unix seconds the engine was built
    max_model_len: int
    vocab_size: int
    target: str
    quant: str
    tool_parser: str | None = None  # how the model writes tool calls: a name in client/openai/tool_parsers.py
    reasoning_parser: str | None = None  # how it marks its thoughts: a name in client/openai/reasoning.py
    template_switches: tuple[str, ...] = ()  # of SWITCHES, which its chat template reads
    sampling: dict[str, float] = {}  # for what a request leaves unset, by the names of SamplingParams
    fingerprint: str = ""  # of the engine's manifest: the same figure, the same engine
    tasks: tuple[str, ...] = ("generate",)  # generate, embed
    embedding: Embedding | None = None  # how it makes vectors, where it does


class Health(msgspec.Struct, frozen=True, kw_only=True):
    ready: bool
    detail: str


class Backend(Protocol):
    """Seven verbs. Errors are IngotErrors; a stream that has begun ends with a chunk that has a finish_reason or raises."""

    async def start(self) -> None: ...

    async def stop(self, drain_seconds: float) -> None:
        """Refuses new requests, lets running ones finish for that long, then ends them."""
        ...

    async def models(self) -> list[ModelCard]: ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """Chunks of all params.n sequences, interleaved. Closing the iterator aborts the request and frees its pages."""
        ...

    async def embed(self, request: EmbedRequest) -> Chunk:
        """The chunk with the vector and its usage. Cancelling the call aborts the request."""
        ...

    async def tokenize(self, model: str, prompt: Prompt) -> list[int]: ...

    async def detokenize(self, model: str, token_ids: list[int]) -> str: ...

    async def health(self) -> Health: ...

    async def metrics(self) -> bytes:
        """Prometheus text."""
        ...


def whole_vector(chunk: Chunk) -> Chunk:
    """Raises UnavailableError where the server ended the request before its vector was made."""
    if chunk.vector is None:
        raise UnavailableError("The server ended this request early.", mend="Send it again.")
    return chunk


async def find_model(backend: Backend, name: str) -> ModelCard:
    """Raises UnknownModelError."""
    cards = await backend.models()
    for card in cards:
        if card.name == name:
            return card
    known = ", ".join(card.name for card in cards)
    raise UnknownModelError(f"No model is called {name[:200]!r}.", mend=f"This server has: {known}.")
