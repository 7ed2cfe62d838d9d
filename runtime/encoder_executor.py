"""The loop of an encoder engine: whole texts, as many as a step holds, in order of priority and arrival. No pages, no torch."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple, Protocol

from ingot.errors import RequestError
from ingot.manifest import Limits
from ingot.runtime.messages import RequestFailed, Stats, TokenChunk, TokenRequest


class VectorProgram(Protocol):
    """The loaded forward of an encoder."""

    def vectors(self, texts: Sequence[Sequence[int]], poolings: Sequence[str]) -> list[bytes]:
        """One vector a text: float32, little-endian."""
        ...


class Waiting(NamedTuple):
    order: tuple[int, int]  # priority, arrival: smaller goes sooner
    request: TokenRequest


ORDER = attrgetter("order")


class EncoderExecutor:
    """StepLoop of runtime/worker.py. A text is read in one step, so nothing runs between two of them."""

    def __init__(self, program: VectorProgram, limits: Limits) -> None:
        self._program, self._limits = program, limits
        self._line: list[Waiting] = []  # sorted by order
        self._outbox: list[TokenChunk | RequestFailed] = []
        self._arrivals = self._steps = self._tokens = self._running = 0

    @property
    def has_work(self) -> bool:
        return bool(self._line or self._outbox)

    def add(self, request: TokenRequest) -> None:
        """Queues a request. One that cannot be taken is answered by a RequestFailed in the next step; it harms no other."""
        most = self._limits.max_model_len
        error: RequestError | None = None
        if request.pooling is None:
            error = RequestError("An encoder generates no text.", mend="Ask for embeddings.", param="model")
        elif not 0 < len(request.token_ids) <= most:
            error = RequestError(
                f"The text has {len(request.token_ids)} tokens; allowed: 1 to {most}.",
                mend="Shorten it.",
                param="input",
            )
        if error is not None:
            self._outbox.append(
                RequestFailed(request_id=request.request_id, code=error.code, message=error.message, mend=error.mend)
            )
            return
        self._arrivals += 1
        insort(self._line, Waiting((request.priority, self._arrivals), request), key=ORDER)

    def abort(self, request_id: str, index: int | None = None) -> None:
        """Ends a request that waits; unknown and ended ones are no error."""
        found = [one for one in self._line if one.request.request_id == request_id]
        self._line = [one for one in self._line if one.request.request_id != request_id]
        self._outbox += [TokenChunk(request_id=request_id, index=0, token_ids=[], finish_reason="abort") for _ in found]

    def step(self) -> list[TokenChunk | RequestFailed]:
        """Runs the first texts of the line. What the program raises passes through, as in Executor.step."""
        taken = self._take()
        if taken:
            self._running = len(taken)
            texts = [request.token_ids for request in taken]
            vectors = self._program.vectors(texts, [request.pooling or "mean" for request in taken])
            self._running = 0
            self._steps += 1
            self._tokens += sum(map(len, texts))
            self._outbox += [
                TokenChunk(request_id=request.request_id, index=0, token_ids=[], finish_reason="stop", vector=vector)
                for request, vector in zip(taken, vectors, strict=True)
            ]
        told, self._outbox = self._outbox, []
        return told

    def stats(self) -> Stats:
        return Stats(
            running=self._running,
            waiting=len(self._line),
            pages_free=0,
            pages_cached=0,
            pages_held=0,
            pages_total=0,
            preemptions=0,
            prefix_queries=0,
            prefix_hits=0,
            steps=self._steps,
            prompt_tokens=self._tokens,
            generation_tokens=0,
        )

    def _take(self) -> list[TokenRequest]:
        """Texts off the front of the line that fit a step together; one always does."""
        room, count = self._limits.max_num_batched_tokens, 0
        for waiting in self._line[: self._limits.max_num_seqs]:
            room -= len(waiting.request.token_ids)
            if count and room < 0:
                break
            count += 1
        taken = [waiting.request for waiting in self._line[:count]]
        del self._line[:count]
        return taken
