"""What a JSON schema costs, and what a hostile grammar costs the others: python benchmarks/structured.py ENGINE. Last line: JSON.

Rounds with and without take turns, so that a machine that is slow for a while is slow for both; the median of the pairs counts.
All streams draw at temperature 1 and write as many tokens. CPU time is the step thread's, which neighbours do not change.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click
from record import publish
from rich.console import Console
from rich.table import Table

from ingot.manifest import read_manifest
from ingot.runtime.executor import Executor
from ingot.runtime.grammars.compiler import GrammarCompiler
from ingot.runtime.load import calm_garbage_collection
from ingot.runtime.messages import RequestFailed, TokenChunk, TokenRequest
from ingot.runtime.params import Grammar, SamplingParams
from ingot.runtime.programs import load_program
from ingot.runtime.text import Tokenizer

PROMPT = "The quick brown fox jumps over the lazy dog."
ORDER = {
    "type": "object",
    "properties": {
        "item": {"type": "string", "minLength": 1, "maxLength": 12},
        "note": {"type": "string"},
        "count": {"type": "integer", "minimum": 1, "maximum": 99},
        "size": {"enum": ["small", "large"]},
        "gift": {"type": "boolean"},
    },
    "required": ["item", "note", "count", "size", "gift"],
    "additionalProperties": False,
}
ORDERS = {"type": "array", "items": ORDER, "minItems": 100}  # no answer ends before its tokens do


def order_schema() -> Grammar:
    return Grammar(kind="json_schema", text=json.dumps(ORDERS))


def costly_to_compile(number: int) -> Grammar:
    """Within every limit of size, and minutes of work for the compiler."""
    branches = [
        {"type": "object", "properties": {f"k{i}-{j}": {"type": "string"} for j in range(6)}} for i in range(250)
    ]
    return Grammar(kind="json_schema", text=json.dumps({"title": str(number), "anyOf": branches}))


def costly_to_follow(number: int) -> Grammar:
    """Compiles at once; its parser takes ever longer for each token."""
    return Grammar(kind="ebnf", text=f'root ::= "a" | root root | "b{number}"')


@dataclass(frozen=True, slots=True)
class Bench:
    executor: Executor
    prompt: list[int]
    ends: tuple[int, ...]  # tokens that end a text


@dataclass(slots=True)
class Run:
    """One batch from its first step to its last."""

    steps: list[float]  # wall seconds of each
    cpu: float  # seconds of the step thread
    tokens: int
    refused: int


def run(bench: Bench, streams: int, tokens: int, grammars: list[Grammar | None]) -> Run:
    """`streams` requests, of which each follows grammars[i mod len]; further ones come when all run."""
    executor, prompt, ends = bench.executor, bench.prompt, bench.ends
    found = Run([], 0.0, 0, 0)
    for i in range(streams):
        grammar = grammars[i] if i < len(grammars) else grammars[-1]
        may_end = grammar is not None and grammar.kind == "ebnf"  # the schema's texts are longer than any stream
        endless = dict.fromkeys(ends, -100.0) if may_end else {}
        params = SamplingParams(
            max_tokens=tokens, seed=i, ignore_eos=grammar is None, grammar=grammar, logit_bias=endless
        )
        executor.add(TokenRequest(request_id=str(i), token_ids=prompt, params=params))
    began = time.thread_time()
    while executor.has_work:
        started = time.perf_counter()
        told = executor.step()
        found.steps.append(time.perf_counter() - started)
        found.tokens += sum(len(one.token_ids) for one in told if isinstance(one, TokenChunk))
        found.refused += sum(isinstance(one, RequestFailed) for one in told)
    found.cpu = time.thread_time() - began
    return found


def schema_cost(bench: Bench, streams: int, tokens: int, rounds: int) -> tuple[float, Run]:
    """CPU seconds per token beside those of free text, as a share; and the last structured run."""
    shares = []
    schema = order_schema()
    run(bench, 1, 4, [schema])  # compiles it
    for number in range(rounds):
        kinds: list[Grammar | None] = [None, schema] if number % 2 == 0 else [schema, None]
        runs = {kind is None: run(bench, streams, tokens, [kind]) for kind in kinds}
        free, structured = runs[True], runs[False]
        if structured.tokens != free.tokens:
            raise click.ClickException(f"{structured.tokens} tokens with the schema, {free.tokens} without.")
        shares.append(structured.cpu / free.cpu - 1)
    return median(shares), structured


def held_up(bench: Bench, streams: int, tokens: int, hostile: list[Grammar]) -> float:
    """How many steps the longest step was longer beside a hostile grammar, in steps of the median: median of the pairs."""
    pairs = []
    for grammar in hostile:
        alone = run(bench, streams, tokens, [None])
        beside = run(bench, streams + 1, tokens, [grammar, None])
        if beside.refused != 1:
            raise click.ClickException("The hostile grammar was not refused.")
        pairs.append((longest(beside.steps) - longest(alone.steps)) / median(alone.steps))
    return median(pairs)


def longest(steps: list[float]) -> float:
    """Without the first, which read all prompts."""
    return max(steps[2:])


@click.command()
@click.argument("engine", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--streams", default=64, show_default=True)
@click.option("--tokens", default=96, show_default=True, help="That every stream writes.")
@click.option("--rounds", default=5, show_default=True, help="Pairs of runs for the schema's cost.")
@click.option("--record", is_flag=True, help="Keep the result in benchmarks/results/.")
def main(engine: Path, streams: int, tokens: int, rounds: int, record: bool) -> None:
    """Times ENGINE writing free text, text that follows a schema, and free text beside hostile grammars."""
    manifest = read_manifest(engine)
    tokenizer = Tokenizer.from_engine(engine)
    grammars = GrammarCompiler(tokenizer.vocabulary())
    executor = Executor(
        load_program(engine, manifest), manifest.limits, tokenizer.eos_token_ids, grammars=grammars, max_waiting=4096
    )
    calm_garbage_collection()
    bench = Bench(executor, tokenizer.encode(PROMPT), tuple(tokenizer.eos_token_ids))
    run(bench, streams, 4, [None])
    try:
        cost, structured = schema_cost(bench, streams, tokens, rounds)
        compiling = held_up(bench, streams, 3 * tokens, [costly_to_compile(0)])
        following = held_up(bench, streams, 2 * tokens, [costly_to_follow(i) for i in range(3)])
    finally:
        executor.close()
    table = Table("what", "measured", "bound", title=f"{streams} streams of {tokens} tokens, {manifest.dtype}")
    table.add_row("a JSON schema on every stream, of throughput", f"{cost:.1%}", "10 %")
    table.add_row("beside a schema that cannot be compiled, steps", f"{compiling:.2f}", "1")
    table.add_row("beside a grammar that cannot be followed, steps", f"{following:.2f}", "1")
    Console().print(table)
    line = {
        "benchmark": "structured",
        "streams": streams,
        "schema_cost": cost,
        "structured_tok_s_cpu": structured.tokens / structured.cpu,
        "hostile_compile_steps": compiling,
        "hostile_follow_steps": following,
        "vocab_size": tokenizer.vocab_size,
        "dtype": manifest.dtype,
    }
    publish(line, record=record)


if __name__ == "__main__":
    main()
