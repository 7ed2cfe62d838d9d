"""An engine in one process against transformers: python benchmarks/against_transformers.py ENGINE --model CHECKPOINT.

Requests of mixed lengths, all at once here, one by one in transformers, greedy and in the same dtype. Last line: JSON.
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


@click.command()
@click.argument("engine", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--model", required=True, type=click.Path(exists=True, file_okay=False), help="What ENGINE was built from."
)
@click.option("--requests", default=64, show_default=True)
@click.option("--longest", default=128, show_default=True, help="Longest prompt, in tokens.")
@click.option("--record", is_flag=True, help="Keep the result in benchmarks/results/.")
def main(engine: Path, model: str, requests: int, longest: int, record: bool) -> None:
    """Times ENGINE against transformers' generate()."""
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
    agreeing = sum(mine == other for mine, other in zip(our_tokens, their_tokens, strict=True))
    generated = sum(outputs)
    table = Table(
        "what", "transformers", "ingot", "gain", title=f"{engine}, {torch.get_num_threads()} threads, {dtype}"
    )
    table.add_row(f"{requests} requests, seconds", f"{theirs:.2f}", f"{ours:.2f}", f"{theirs / ours:.2f} x")
    table.add_row("output tokens/s", f"{generated / theirs:.0f}", f"{generated / ours:.0f}", "")
    table.add_row("requests with the same tokens", "", f"{agreeing} of {requests}", "")
    Console().print(table)
    line = {
        "benchmark": "transformers",
        "speedup_vs_transformers": theirs / ours,
        "output_tok_s": generated / ours,
        "same_tokens": agreeing / requests,
        "dtype": str(dtype),
        "threads": torch.get_num_threads(),
    }
    publish(line, record=record)


if __name__ == "__main__":
    main()
