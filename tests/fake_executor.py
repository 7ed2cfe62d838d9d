"""An executor without a model, for tests of what stands around one: it answers a prompt with the same tokens, over and over.

Every sequence holds one page. `SLOW` in a prompt makes steps take 20 ms, `HANG` 60 s, `CRASH` raises.
"""

from __future__ import annotations

import time
from pathlib import Path

from ingot.errors import EngineError
from ingot.runtime.messages import RequestFailed, Stats, TokenChunk, TokenRequest

PAGES = 64
SLOW, HANG, CRASH, REFUSE = 9001, 9002, 9003, 9004
FOREVER = 1 << 30


class FakeExecutor:
    def __init__(self) -> None:
        self._running: dict[
            str, tuple[TokenRequest, dict[int, int]]
        ] = {}  # request -> tokens said so far by each sequence
        self._replies: list[TokenChunk | RequestFailed] = []
        self._steps = self._prompt_tokens = self._tokens = 0

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._replies)

    def add(self, request: TokenRequest) -> None:
        if REFUSE in request.token_ids:
            self._replies.append(
                RequestFailed(
                    request_id=request.request_id, code="capacity", message="Too large.", mend="Ask for less."
                )
            )
            return
        self._prompt_tokens += len(request.token_ids)
        self._running[request.request_id] = (request, dict.fromkeys(range(request.params.n), 0))

    def abort(self, request_id: str, index: int | None = None) -> None:
        if request_id not in self._running:
            return
        said = self._running[request_id][1]
        for ended in [one for one in said if index in (None, one)]:
            del said[ended]
            self._replies.append(TokenChunk(request_id=request_id, index=ended, token_ids=[], finish_reason="abort"))
        if not said:
            del self._running[request_id]

    def step(self) -> list[TokenChunk | RequestFailed]:
        self._steps += 1
        replies, self._replies = self._replies, []
        prompts = [request.token_ids for request, _ in self._running.values()]
        if any(CRASH in prompt for prompt in prompts):
            raise RuntimeError("the fake program broke")
        if any(HANG in prompt for prompt in prompts):
            time.sleep(60)
        if any(SLOW in prompt for prompt in prompts):
            time.sleep(0.02)
        for request, said in [*self._running.values()]:
            replies += [self._next(request, said, index) for index in [*said]]
        return replies

    def _next(self, request: TokenRequest, said: dict[int, int], index: int) -> TokenChunk:
        token = request.token_ids[said[index] % len(request.token_ids)]
        said[index] += 1
        self._tokens += 1
        last = said[index] >= (request.params.max_tokens or FOREVER)
        if last:
            del said[index]
            if not said:
                del self._running[request.request_id]
        return TokenChunk(
            request_id=request.request_id, index=index, token_ids=[token], finish_reason="length" if last else None
        )

    def stats(self) -> Stats:
        running = sum(len(said) for _, said in self._running.values())
        return Stats(
            running=running,
            waiting=0,
            pages_free=PAGES - running,
            pages_cached=0,
            pages_held=running,
            pages_total=PAGES,
            preemptions=0,
            prefix_queries=self._prompt_tokens,
            prefix_hits=0,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._tokens,
        )


def load(engine: Path) -> FakeExecutor:
    """The worker's `--loader`. An engine folder called `broken` does not load."""
    if engine.name == "broken":
        raise EngineError("This engine is broken.", mend="Build it again.")
    return FakeExecutor()
