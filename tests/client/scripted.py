"""A Backend that says what it is told to, in pieces of any size: for tests of how answers are read."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import openai
from tests.client.fake_backend import NAME, FakeBackend

from ingot.client.backend import ModelCard
from ingot.runtime.request import Chunk, GenerateRequest, Usage

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}},
    "required": ["city"],
    "$defs": {"city": {"type": "string"}},
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "clock"}},
]
USER: list[Any] = [{"role": "user", "content": "hi"}]


class ScriptedBackend(FakeBackend):
    def __init__(self) -> None:
        super().__init__()
        self.answer = ""
        self.piece = 1  # characters of a chunk
        self.finish_reason = "stop"
        self.tool_parser: str | None = None
        self.reasoning_parser: str | None = None
        self.card: dict[str, Any] = {}  # other fields of its ModelCard

    def says(self, text: str, **settings: Any) -> None:
        """The next answers; `settings` are the attributes above, for these answers alone."""
        defaults = {"piece": 3, "tool_parser": None, "reasoning_parser": None, "finish_reason": "stop", "card": {}}
        for name, value in {**defaults, **settings, "answer": text}.items():
            setattr(self, name, value)
        self.seen.clear()

    async def models(self) -> list[ModelCard]:
        (card,) = await super().models()
        return [
            msgspec.structs.replace(
                card, **{"tool_parser": self.tool_parser, "reasoning_parser": self.reasoning_parser, **self.card}
            )
        ]

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self.seen.append(request)
        pieces = [self.answer[i : i + self.piece] for i in range(0, len(self.answer), self.piece)] or [""]
        for place, piece in enumerate(pieces):
            last = place + 1 == len(pieces)
            yield Chunk(
                index=0,
                text=piece,
                token_ids=[place],
                prompt_token_ids=[1] if place == 0 else None,
                finish_reason=self.finish_reason if last else None,
                usage=Usage(prompt_tokens=1, completion_tokens=len(pieces), cached_tokens=0) if last else None,
            )


def create(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(model=NAME, messages=USER, **fields)


__all__ = ["NAME", "PARAMETERS", "TOOLS", "USER", "ScriptedBackend", "create"]
