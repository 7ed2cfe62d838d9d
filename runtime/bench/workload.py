"""What a benchmark asks of an engine: so many prompts of one length, each to be continued by so many tokens."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from ingot.errors import RequestError
from ingot.manifest import Limits

FORM = re.compile(r"(\d+)/(\d+)x(\d+)")
FIRST_TOKEN = 10  # random prompts leave out the lowest ids, where tokenizers keep their special tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`requests` prompts of `isl` tokens (input sequence length), each answered by `osl` tokens, all asked at once."""

    isl: int
    osl: int
    requests: int

    def __str__(self) -> str:
        return f"{self.isl}/{self.osl}x{self.requests}"

    def check(self, limits: Limits) -> None:
        """Raises RequestError where the engine takes no sequence of that length."""
        if self.isl + self.osl > limits.max_model_len:
            raise RequestError(
                f"Workload {self} needs sequences of {self.isl + self.osl} tokens; the engine takes {limits.max_model_len}.",
                mend="Ask for shorter ones, or build with a larger --max-model-len.",
            )

    def prompts(self, vocab_size: int, seed: int) -> list[list[int]]:
        """Random token ids, so that no two prompts share a prefix."""
        rng = random.Random(f"{self}-{seed}")
        return [random_tokens(rng, self.isl, vocab_size) for _ in range(self.requests)]


def parse_workload(text: str) -> Workload:
    """ISL/OSLxN, such as 1024/256x768. Raises ValueError for anything else, and for zeros."""
    match = FORM.fullmatch(text.strip())
    if match is None or "0" in (lengths := [found.lstrip("0") or "0" for found in match.groups()]):
        raise ValueError(f"{text!r} is not a workload; write ISL/OSLxN with numbers above 0, such as 1024/256x768.")
    isl, osl, requests = map(int, lengths)
    return Workload(isl=isl, osl=osl, requests=requests)


def random_tokens(rng: random.Random, count: int, vocab_size: int) -> list[int]:
    """`count` token ids that no tokenizer treats specially; `vocab_size` is above FIRST_TOKEN for any model."""
    return rng.choices(range(min(FIRST_TOKEN, vocab_size - 1), vocab_size), k=count)
