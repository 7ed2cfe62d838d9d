"""Grammars, sampler and logprobs at a vocabulary of Llama 3's size: python benchmarks/vocabulary.py. Last line: JSON.

The vocabulary is made up of syllables, punctuation and other scripts' characters, so that nothing need be fetched; the logits
are noise. Compile times are the compile process's; the others are medians of steps in which every row has work.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable
from statistics import median

import click
import numpy as np
import torch
from record import publish
from rich.console import Console
from rich.table import Table

from ingot.runtime.grammars.compiler import GrammarCompiler
from ingot.runtime.grammars.messages import Vocabulary
from ingot.runtime.params import Grammar, SamplingParams
from ingot.runtime.plan import Arrival, Slice
from ingot.runtime.sampler import Sampler

SPECIAL = 256  # tokens without text at the end, the first of which ends a text
ONSETS = ("", *"bcdfghklmnprstvw", "br", "ch", "pr", "st", "tr")
CORES, CODAS = ("a", "e", "i", "o", "u", "ai", "ea", "io"), ("", "n", "r", "s", "t", "l", "ng", "nd")
SCRIPTS = ((0x400, 0x44F, 5), (0x4E00, 0x9FA5, 2), (0xAC00, 0xD7A3, 2), (0x3040, 0x30FF, 3), (0x621, 0x64A, 4))
SCHEMAS = {
    "free strings": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
    "numbers and enums": {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 120}, "e": {"enum": ["red", "green", None]}},
        "required": ["n", "e"],
    },
    "maxLength 12": {"type": "object", "properties": {"a": {"type": "string", "maxLength": 12}}, "required": ["a"]},
}


def words(size: int) -> list[bytes]:
    """`size` different tokens: every byte, spaces, punctuation, numbers, words with and without a space, other scripts."""
    rng = random.Random(0)
    punctuation = ".,:;!?()[]{}<>/\\|\"'`-_=+*&^%$#@~"
    syllables = ["".join(parts) for parts in itertools.product(ONSETS, CORES, CODAS)]
    found = dict.fromkeys(bytes([byte]) for byte in range(256))
    texts = [space * count for space in " \n\t" for count in range(1, 25)]
    texts += ["".join(pair) for pair in itertools.product(punctuation, punctuation + "\n")]
    texts += [str(number) for number in range(1000)]
    found |= dict.fromkeys(text.encode() for text in texts)
    while len(found) < size:
        if rng.random() < 0.75:
            word = "".join(rng.choices(syllables, k=rng.randint(1, 3)))
            text = rng.choice((word, " " + word, " " + word.capitalize()))
        else:
            low, high, longest = rng.choice(SCRIPTS)
            text = "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, longest)))
        found.setdefault(text.encode())
    return list(found)[:size]


def step_ms(step: Callable[[], object], repeats: int = 7) -> float:
    """CPU milliseconds of this thread."""
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        step()
        times.append((time.thread_time() - began) * 1e3)
    return median(times)


def compile_times(compiler: GrammarCompiler) -> tuple[dict[str, float], dict[str, int]]:
    """Milliseconds to the constraint, and the bytes it holds."""
    times, sizes = {}, {}
    for name, schema in SCHEMAS.items():
        began = time.perf_counter()
        constraint = compiler.compile(Grammar(kind="json_schema", text=json.dumps(schema))).result()
        times[name] = (time.perf_counter() - began) * 1e3
        sizes[name] = constraint.num_bytes  # type: ignore[attr-defined]
    return times, sizes


def sampler_times(compiler: GrammarCompiler, rows: int, size: int, eos: int) -> dict[str, float]:
    """Per step of `rows` rows: what sampling takes alone, with masks, with logprobs. Texts stand within a string."""
    grammar = Grammar(kind="json_schema", text=json.dumps(SCHEMAS["free strings"]))
    written = list(b'{"a":"xyz')
    logits = torch.randn((rows, size), generator=torch.Generator().manual_seed(0))
    places, at = np.arange(rows), np.full(rows, len(written) + 1)
    kinds = {
        "free": SamplingParams(),
        "schema": SamplingParams(grammar=grammar),
        "greedy": SamplingParams(temperature=0.0),
        "greedy + schema": SamplingParams(temperature=0.0, grammar=grammar),
        "greedy + logprobs": SamplingParams(temperature=0.0, logprobs=5),
    }
    found = {}
    for name, params in kinds.items():
        sampler = Sampler(max_num_seqs=rows, vocab_size=size, eos_token_ids=[eos])
        constraint = compiler.compile(grammar).result() if params.grammar else None
        for row in range(rows):
            sampler.admit(Arrival(row, row, params, row, [0], written, constraint))
        slices = [Slice(row, row, len(written), [written[-1]], [], 0, True) for row in range(rows)]

        def step(sampler: Sampler = sampler, slices: list[Slice] = slices) -> None:
            sampler.follow(slices)
            tokens = sampler.sample(logits, places, at)
            sampler.logprobs(logits, places, tokens)

        with torch.inference_mode():
            found[name] = step_ms(step)
    return found


@click.command()
@click.option("--size", default=128_256, show_default=True, help="Tokens of the vocabulary.")
@click.option("--rows", default=64, show_default=True, help="Streams in a step.")
@click.option("--record", is_flag=True, help="Keep the result in benchmarks/results/.")
def main(size: int, rows: int, record: bool) -> None:
    """Times grammars and the sampler on one thread."""
    torch.set_num_threads(1)
    eos = size - SPECIAL
    vocabulary = Vocabulary(tokens=[*words(size - SPECIAL), *[b""] * SPECIAL], eos_token_ids=[eos])
    compiler = GrammarCompiler(vocabulary)
    try:
        compiler.warm()
        compiler.compile(Grammar(kind="json_schema", text='{"type": "null"}')).result()
        compiling, sizes = compile_times(compiler)
        steps = sampler_times(compiler, rows, size, eos)
    finally:
        compiler.close()
    table = Table("what", "measured", title=f"{size:,} tokens, {rows} rows, one thread")
    for name, took in compiling.items():
        table.add_row(f"compile: {name}", f"{took:,.0f} ms, {sizes[name] / 2**20:.1f} MiB")
    for name, took in steps.items():
        table.add_row(f"a step's sampling: {name}", f"{took:.1f} ms")
    table.add_row("a step's masks", f"{rows * -(-size // 8) / 2**20:.1f} MiB packed")
    Console().print(table)
    line = {"benchmark": "vocabulary", "size": size, "rows": rows, "compile_ms": compiling, "compiled_bytes": sizes}
    publish(line | {"step_ms": steps}, record=record)


if __name__ == "__main__":
    main()
