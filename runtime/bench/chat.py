"""Multi-turn chat: every turn's prompt holds all turns before it, so that a prefix cache finds nearly all of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ingot.errors import RequestError
from ingot.manifest import Limits
from ingot.runtime.bench.drive import Driver
from ingot.runtime.bench.subject import Subject
from ingot.runtime.bench.workload import random_tokens

COLD_SEED, WARM_SEED, WARM_UP_SEED = 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Chats:
    """Lengths in tokens. One system prompt is shared by all conversations."""

    conversations: int = 20
    turns: int = 8
    system: int = 1024
    question: int = 64
    answer: int = 64

    @property
    def longest(self) -> int:
        return self.system + self.turns * (self.question + self.answer)

    @property
    def rounds(self) -> int:
        return self.conversations + self.turns - 1

    def check(self, limits: Limits) -> None:
        """Raises RequestError where the engine takes no conversation of that length."""
        if self.longest > limits.max_model_len:
            raise RequestError(
                f"Conversations grow to {self.longest} tokens; the engine takes {limits.max_model_len}.",
                mend="Ask for fewer turns or shorter ones, or build with a larger --max-model-len.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTiming:
    seconds: float
    hits: int  # prompt tokens found in the prefix cache
    queries: int  # prompt tokens

    @property
    def hit_rate(self) -> float:
        return self.hits / self.queries


def run_chats(subject: Subject, chats: Chats, *, cached: bool, seed: int, advance: Callable[[], None]) -> ChatTiming:
    """One conversation begins in every round until all have begun; those under way ask their next questions together."""
    driver, vocab_size = Driver(subject.program, subject.limits), subject.config.vocab_size
    rng = random.Random(seed)
    system = random_tokens(rng, chats.system, vocab_size)
    texts = [system.copy() for _ in range(chats.conversations)]
    seconds = 0.0
    for turn in range(chats.rounds):
        asking = texts[max(0, turn - chats.turns + 1) : turn + 1]
        for text in asking:
            text += random_tokens(rng, chats.question, vocab_size)
        # The executor keeps the prompt's list, which goes on growing here.
        timing, answers = driver.generate([text.copy() for text in asking], chats.answer, cached=cached)
        seconds += timing.seconds
        for text, answer in zip(asking, answers, strict=True):
            text += answer
        advance()
    stats = driver.stats()
    return ChatTiming(seconds=seconds, hits=stats.prefix_hits, queries=stats.prefix_queries)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatResult:
    chats: Chats
    cold: ChatTiming
    warm: ChatTiming

    @property
    def speedup(self) -> float:
        return self.cold.seconds / self.warm.seconds

    def line(self) -> dict[str, Any]:
        chats = self.chats
        return {"benchmark": "chat", "conversations": chats.conversations, "turns": chats.turns, "system": chats.system,
                "question": chats.question, "answer": chats.answer, "prefix_hit_rate": round(self.warm.hit_rate, 4),
                "seconds_without_cache": round(self.cold.seconds, 3), "seconds": round(self.warm.seconds, 3),
                "speedup": round(self.speedup, 3)}  # fmt: skip


def measure_chats(subject: Subject, chats: Chats, advance: Callable[[], None]) -> ChatResult:
    """Without the cache, then with it; a short warm-up first. `advance` is told every round of both."""
    chats.check(subject.limits)
    short = Chats(conversations=2, turns=min(2, chats.turns), system=chats.system, question=chats.question, answer=4)
    run_chats(subject, short, cached=True, seed=WARM_UP_SEED, advance=lambda: None)
    cold = run_chats(subject, chats, cached=False, seed=COLD_SEED, advance=advance)
    warm = run_chats(subject, chats, cached=True, seed=WARM_SEED, advance=advance)
    return ChatResult(chats=chats, cold=cold, warm=warm)
