"""Texts to vectors as people want them: asked for side by side, cut, scaled to length 1, spelled. Knows no routes and no torch."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingot.client.backend import Backend, ModelCard
from ingot.errors import RequestError
from ingot.runtime.request import Chunk, EmbedRequest, Prompt

AT_ONCE = 64  # texts of one HTTP request that wait or run, so that a long list leaves room in the queue

Texts = str | list[int] | list[str] | list[list[int]]
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How vectors leave: None means as the engine's manifest says."""

    normalize: bool | None = None
    dimensions: int | None = None  # the first so many

    def check(self, card: ModelCard) -> None:
        """Raises RequestError for more dimensions than there are."""
        if card.embedding is not None and (self.dimensions or 0) > card.embedding.size:
            raise RequestError(
                f"'dimensions' is {self.dimensions}; vectors of {card.name} have {card.embedding.size}.",
                mend=f"Ask for 1 to {card.embedding.size}.",
                param="dimensions",
            )

    def apply(self, vectors: Vectors, card: ModelCard) -> Vectors:
        """(n, C) -> (n, dimensions). What is cut short is scaled afterwards; a vector of zeros stays one."""
        vectors = vectors[:, : self.dimensions]
        wanted = self.normalize
        if wanted is None:
            wanted = card.embedding is None or card.embedding.normalize
        if not wanted:
            return vectors
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def prompts_of(texts: Texts) -> list[Prompt]:
    """One for each text, whatever the spelling."""
    many: list[Any] = [texts] if isinstance(texts, str) or isinstance(texts[0], int) else list(texts)
    return [Prompt(text=one) if isinstance(one, str) else Prompt(token_ids=one) for one in many]


async def embed_all(backend: Backend, texts: Texts, asked: EmbedRequest) -> list[Chunk]:
    """The chunk of each text, in order. `asked` says all but the text. The first failure ends them all and names its text."""
    prompts = prompts_of(texts)
    numbered = iter(enumerate(prompts))  # one iterator for all workers
    found: list[Chunk | None] = [None] * len(prompts)

    async def work() -> None:
        for number, prompt in numbered:
            one = msgspec.structs.replace(asked, request_id=f"{asked.request_id}-{number}", prompt=prompt)
            try:
                found[number] = await backend.embed(one)
            except RequestError as error:
                if error.param != "input" or len(prompts) == 1:
                    raise
                raise RequestError(error.message, mend=error.mend, param=f"input[{number}]") from error

    workers = [asyncio.create_task(work()) for _ in range(min(AT_ONCE, len(prompts)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [chunk for chunk in found if chunk is not None]


def to_vectors(chunks: Sequence[Chunk]) -> Vectors:
    """(n, C)."""
    return np.stack([np.frombuffer(chunk.vector or b"", dtype="<f4") for chunk in chunks])


def new_request(model: str, **fields: Any) -> EmbedRequest:
    """An EmbedRequest that lacks only its text."""
    return EmbedRequest(request_id=f"embd-{uuid.uuid4().hex}", model=model, prompt=Prompt(), **fields)


def embeddings_body(card: ModelCard, chunks: Sequence[Chunk], shape: Shape, *, as_base64: bool) -> bytes:
    """OpenAI's reply, as JSON."""
    vectors = shape.apply(to_vectors(chunks), card)
    spelled: list[Any] = (
        [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
        if as_base64
        else vectors.tolist()
    )
    tokens = sum(chunk.usage.prompt_tokens for chunk in chunks if chunk.usage is not None)
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(spelled)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": card.name, "usage": usage})
