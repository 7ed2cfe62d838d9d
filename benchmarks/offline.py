"""An engine in one process against transformers: python benchmarks/offline.py ENGINE --model CHECKPOINT. Last line: JSON.

Part one: requests of mixed lengths, all at once here, one by one in transformers, greedy and in the same dtype.
Part two: chats of several turns, each turn's prompt holding all turns before it, with and without the prefix cache.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import click
import torch
from record import publish
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from ingot.manifest import read_manifest
from ingot.runtime import LLM, SamplingParams

CHATS, TURNS = 6, 8
ANSWER_TOKENS = 24
SYSTEM_TOKENS, QUESTION_TOKENS = 512, 24


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)


def token_ids(rng: random.Random, count: int, vocab_size: int) -> list[int]:
    return [rng.randrange(vocab_size // 16, vocab_size) for _ in range(count)]


def mixed_requests(count: int, vocab_size: int, longest: int, seed: int = 0) -> tuple[list[list[int]], list[int]]:
    """Prompts of 16 to `longest` tokens and outputs of 64 to 128: the lengths of chat."""
    lengths, rng = random.Random(0), random.Random(seed)
    prompts = [token_ids(rng, lengths.randint(16, longest), vocab_size) for _ in range(count)]
    return prompts, [lengths.randint(64, 128) for _ in range(count)]


def run_ingot(llm: LLM, prompts: list[list[int]], outputs: list[int]) -> tuple[float, list[list[int]]]:
    started = time.perf_counter()
    found = llm.generate(prompts, [greedy(count) for count in outputs])
    return time.perf_counter() - started, [one.token_ids for one in found]


def run_transformers(model: Any, prompts: list[list[int]], outputs: list[int]) -> tuple[float, list[list[int]]]:
    started = time.perf_counter()
    found = []
    for prompt, count in zip(prompts, outputs, strict=True):
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, eos_token_id=None
        )
        found.append(out[0, len(prompt) :].tolist())
    return time.perf_counter() - started, found


def run_chats(llm: LLM, *, cached: bool, seed: int) -> tuple[float, float]:
    """Seconds for all turns of all chats, and the share of prompt tokens that the prefix cache held.

    A chat begins in every round until all have begun; those under way ask their next questions together.
    Without the cache, every turn has a cache salt of its own: the same work, but nothing is ever found.
    """
    rng = random.Random(seed)
    vocab_size = llm.tokenizer.vocab_size
    system = token_ids(rng, SYSTEM_TOKENS, vocab_size)
    chats = [system.copy() for _ in range(CHATS)]
    before = llm.stats()
    started = time.perf_counter()
    for turn in range(CHATS + TURNS - 1):
        asking = chats[max(0, turn - TURNS + 1) : turn + 1]
        for chat in asking:
            chat += token_ids(rng, QUESTION_TOKENS, vocab_size)
        salt = None if cached else f"{seed}-{turn}"
        for chat, answer in zip(asking, llm.generate(asking, greedy(ANSWER_TOKENS), cache_salt=salt), strict=True):
            chat += answer.token_ids
    seconds = time.perf_counter() - started
    after = llm.stats()
    return seconds, (after.prefix_hits - before.prefix_hits) / (after.prefix_queries - before.prefix_queries)


@click.command()
@click.argument("engine", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--model", required=True, type=click.Path(exists=True, file_okay=False), help="What ENGINE was built from."
)
@click.option("--requests", default=64, show_default=True)
@click.option("--longest", default=128, show_default=True, help="Longest prompt, in tokens.")
@click.option("--record", is_flag=True, help="Keep the result in benchmarks/results/.")
def main(engine: Path, model: str, requests: int, longest: int, record: bool) -> None:
    """Times ENGINE against transformers' generate(), and its prefix cache against none."""
    dtype = getattr(torch, read_manifest(engine).dtype)
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)  # comes in eval mode
    with LLM(engine) as llm:
        prompts, outputs = mixed_requests(requests, llm.tokenizer.vocab_size, longest)
        warm = [token_ids(random.Random(1), 16, llm.tokenizer.vocab_size)]
        run_ingot(llm, warm, [4])
        run_transformers(reference, warm, [4])
        before, our_tokens = run_ingot(llm, prompts, outputs)
        theirs, their_tokens = run_transformers(reference, prompts, outputs)
        prompts, outputs = mixed_requests(
            requests, llm.tokenizer.vocab_size, longest, seed=1
        )  # nothing of it is cached
        after, _ = run_ingot(llm, prompts, outputs)
        ours = (before + after) / 2  # a machine that is slow for a while is slow for both sides
        cold, _ = run_chats(llm, cached=False, seed=2)
        warm_seconds, hit_rate = run_chats(llm, cached=True, seed=3)
    agreeing = sum(mine == other for mine, other in zip(our_tokens, their_tokens, strict=True))
    generated = sum(outputs)
    table = Table(
        "what", "transformers", "ingot", "gain", title=f"{engine}, {torch.get_num_threads()} threads, {dtype}"
    )
    table.add_row(f"{requests} requests, seconds", f"{theirs:.2f}", f"{ours:.2f}", f"{theirs / ours:.2f} x")
    table.add_row("output tokens/s", f"{generated / theirs:.0f}", f"{generated / ours:.0f}", "")
    table.add_row("requests with the same tokens", "", f"{agreeing} of {requests}", "")
    chats = Table("chats of several turns", "no cache", "prefix cache", title=f"{CHATS} chats of {TURNS} turns")
    chats.add_row("seconds", f"{cold:.2f}", f"{warm_seconds:.2f}")
    chats.add_row("prompt tokens found", "0 %", f"{hit_rate:.0%}")
    Console().print(table, chats)
    line = {
        "benchmark": "offline",
        "speedup_vs_transformers": theirs / ours,
        "output_tok_s": generated / ours,
        "same_tokens": agreeing / requests,
        "prefix_hit_rate": hit_rate,
        "prefix_time_saved": 1 - warm_seconds / cold,
        "dtype": str(dtype),
        "threads": torch.get_num_threads(),
    }
    publish(line, record=record)


if __name__ == "__main__":
    main()
