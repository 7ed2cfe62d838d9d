"""A Backend that echoes: each character of the prompt is a token, and the answer is the prompt in capitals, sample by sample."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncGenerator

from ingot.client.backend import Health, ModelCard
from ingot.errors import IngotError, RequestError, UnavailableError, UnknownModelError
from ingot.manifest import Embedding
from ingot.runtime.request import Chunk, EmbedRequest, GenerateRequest, Logprob, Prompt, Usage

NAME = "echo"


class FakeBackend:
    """`fail_after` chunks of a sequence, `error` is raised; `live` counts generators that have not been closed.

    `endless` answers stop before their last letter and wait until they are closed.
    """

    def __init__(self) -> None:
        self.seen: list[GenerateRequest] = []
        self.embedded: list[EmbedRequest] = []
        self.most_live = 0
        self.error: IngotError | None = None
        self.fail_after = 0
        self.delay = 0.0
        self.live = 0
        self.endless = False
        self.ready = True

    async def start(self) -> None:
        self.ready = True

    async def stop(self, drain_seconds: float) -> None:
        self.ready = False

    async def models(self) -> list[ModelCard]:
        return [
            ModelCard(
                name=NAME,
                created=1,
                max_model_len=512,
                vocab_size=256,
                target="cpu",
                quant="none",
                fingerprint="abc",
                tasks=("generate", "embed"),
                embedding=Embedding(size=2, pooling="last", normalize=True),
            )
        ]

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        if not self.ready:
            raise UnavailableError("The fake is stopped.", mend="Start it.")
        self.seen.append(request)
        self.live += 1
        try:
            prompt = await self.tokenize(request.model, request.prompt)
            answer = "".join(chr(token) for token in prompt).upper() or "?"
            params = request.params
            limit = params.max_tokens or 100
            for step in range(min(limit, len(answer))):
                await asyncio.sleep(self.delay)
                if self.error is not None and step >= self.fail_after:
                    raise self.error
                if self.endless and step + 1 == min(limit, len(answer)):
                    await asyncio.Event().wait()
                last = step + 1 == min(limit, len(answer))
                for index in range(params.n):
                    yield Chunk(
                        index=index,
                        text=answer[step],
                        token_ids=[ord(answer[step])],
                        logprobs=None if params.logprobs is None else [logprob(ord(answer[step]), params.logprobs)],
                        prompt_token_ids=prompt if step == 0 else None,
                        prompt_logprobs=scores(prompt, params.prompt_logprobs) if step == 0 else None,
                        finish_reason=None if not last else "length" if limit < len(answer) else "stop",
                        usage=Usage(prompt_tokens=len(prompt), completion_tokens=step + 1, cached_tokens=1)
                        if last
                        else None,
                    )
        finally:
            self.live -= 1

    async def embed(self, request: EmbedRequest) -> Chunk:
        """Two numbers: how many tokens there are, and 1."""
        if not self.ready:
            raise UnavailableError("The fake is stopped.", mend="Start it.")
        self.embedded.append(request)
        self.live += 1
        self.most_live = max(self.most_live, self.live)
        try:
            prompt = await self.tokenize(request.model, request.prompt)
            await asyncio.sleep(self.delay)
            if len(prompt) > 512:
                raise RequestError("The text is too long.", mend="Shorten it.", param="input")
            if self.error is not None:
                raise self.error
        finally:
            self.live -= 1
        usage = Usage(prompt_tokens=len(prompt), completion_tokens=0, cached_tokens=0)
        vector = array("f", [len(prompt), 1]).tobytes()
        return Chunk(index=0, text="", token_ids=[], finish_reason="stop", usage=usage, vector=vector)

    async def tokenize(self, model: str, prompt: Prompt) -> list[int]:
        if model != NAME:
            raise UnknownModelError("No such model.", mend="Use echo.")
        if prompt.token_ids is not None:
            return prompt.token_ids
        if prompt.messages is not None:
            return [ord(letter) for letter in prompt.messages[-1]["content"]]
        return [ord(letter) for letter in prompt.text or ""]

    async def detokenize(self, model: str, token_ids: list[int]) -> str:
        return "".join(chr(token) for token in token_ids)

    async def health(self) -> Health:
        return Health(ready=self.ready, detail="ready" if self.ready else "gone")

    async def metrics(self) -> bytes:
        return b"# nothing\n"


def logprob(token: int, best: int) -> Logprob:
    top = [one(token + i, -0.5 - i) for i in range(best)]
    return Logprob(token_id=token, text=chr(token), bytes=[*chr(token).encode()], logprob=-0.5, rank=1, top=top)


def one(token: int, value: float) -> Logprob:
    return Logprob(token_id=token, text=chr(token), bytes=[*chr(token).encode()], logprob=value, rank=1)


def scores(prompt: list[int], best: int | None) -> list[Logprob | None] | None:
    return None if best is None else [None, *(logprob(token, best) for token in prompt[1:])]
