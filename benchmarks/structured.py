"""What a JSON schema costs, and what a hostile grammar costs the others: python benchmarks/structured.py ENGINE. Last line: JSON.

Two executors, one with the schema, take turns of a few steps at equal lengths of text, so that a machine that is slow for a
while is slow for both, and change roles every round; the median of these pairs counts, and their quartiles are told. All streams draw at temperature 1 and
write as many tokens. CPU time is the step thread's, which does all the work of a step, a grammar's included.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

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
TURN = 8  # steps
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


@dataclass(frozen=True, slots=True)
class Run:
    """One batch from its first step to its last."""

    steps: list[float]  # wall seconds of each
    cpu: list[float]  # and seconds of the step thread
    tokens: list[int]
    refused: list[RequestFailed]


def begin(bench: Bench, streams: int, tokens: int, grammars: list[Grammar | None]) -> Run:
    """Adds `streams` requests, of which the first follow grammars[0], grammars[1] ... and all further ones the last."""
    for i in range(streams):
        grammar = grammars[i] if i < len(grammars) else grammars[-1]
        may_end = grammar is not None and grammar.kind == "ebnf"  # the schema's texts are longer than any stream
        endless = dict.fromkeys(bench.ends, -100.0) if may_end else {}
        params = SamplingParams(
            max_tokens=tokens, seed=i, ignore_eos=grammar is None, grammar=grammar, logit_bias=endless
        )
        bench.executor.add(TokenRequest(request_id=str(i), token_ids=bench.prompt, params=params))
    return Run([], [], [], [])


def step(bench: Bench, found: Run) -> None:
    began, began_cpu = time.perf_counter(), time.thread_time()
    told = bench.executor.step()
    found.cpu.append(time.thread_time() - began_cpu)
    found.steps.append(time.perf_counter() - began)
    found.tokens.append(sum(len(one.token_ids) for one in told if isinstance(one, TokenChunk)))
    found.refused.extend(one for one in told if isinstance(one, RequestFailed))


def run(bench: Bench, streams: int, tokens: int, grammars: list[Grammar | None]) -> Run:
    found = begin(bench, streams, tokens, grammars)
    while bench.executor.has_work:
        step(bench, found)
    return found


def schema_cost(benches: list[Bench], streams: int, tokens: int, rounds: int) -> tuple[list[float], float]:
    """Of each pair of turns, CPU seconds beside those of free text, as a share; and tokens per CPU second with the schema."""
    shares, rates = [], []
    schema = order_schema()
    run(benches[0], streams, 4, [schema])  # compiles it
    for number in range(rounds):
        free, guided = benches if number % 2 == 0 else reversed(benches)
        plain, structured = begin(free, streams, tokens, [None]), begin(guided, streams, tokens, [schema])
        take_turns([(free, plain), (guided, structured)])
        if plain.tokens != structured.tokens:
            raise click.ClickException(f"{sum(structured.tokens)} tokens with the schema, {sum(plain.tokens)} without.")
        for at in range(TURN, tokens - TURN + 1, TURN):  # without the first, which read the prompts
            turn = slice(at, at + TURN)
            shares.append(sum(structured.cpu[turn]) / sum(plain.cpu[turn]) - 1)
            rates.append(sum(structured.tokens[turn]) / sum(structured.cpu[turn]))
    return shares, median(rates)


def take_turns(sides: list[tuple[Bench, Run]]) -> None:
    """To the end of both, in the order A B B A."""
    while any(bench.executor.has_work for bench, _ in sides):
        for bench, found in sides:
            for _ in range(TURN):
                if bench.executor.has_work:
                    step(bench, found)
        sides.reverse()


def held_up(bench: Bench, streams: int, tokens: int, hostile: list[Grammar]) -> float:
    """How many steps the longest step is longer beside a hostile grammar, in steps of the median. Medians of runs: any
    run's longest step may be the machine's fault."""
    alone = [run(bench, streams, tokens, [None]) for _ in hostile]
    beside = [run(bench, streams + 1, tokens, [grammar, None]) for grammar in hostile]
    if any(len(found.refused) != 1 for found in beside):
        raise click.ClickException("A hostile grammar was not refused.")
    usual = median(seconds for found in alone for seconds in found.steps)
    return (median(map(longest, beside)) - median(map(longest, alone))) / usual


def longest(found: Run) -> float:
    """Without the first, which read all prompts."""
    return max(found.steps[2:])


@click.command()
@click.argument("engine", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--streams", default=64, show_default=True)
@click.option("--tokens", default=96, show_default=True, help="That every stream writes.")
@click.option("--rounds", default=4, show_default=True, help="Runs side by side for the schema's cost.")
@click.option("--record", is_flag=True, help="Keep the result in benchmarks/results/.")
def main(engine: Path, streams: int, tokens: int, rounds: int, record: bool) -> None:
    """Times ENGINE writing free text, text that follows a schema, and free text beside hostile grammars."""
    manifest = read_manifest(engine)
    tokenizer = Tokenizer.from_engine(engine)
    grammars = GrammarCompiler(tokenizer.vocabulary())
    benches = [
        Bench(
            Executor(load_program(engine, manifest), manifest.limits, tokenizer.eos_token_ids, grammars=grammars),
            tokenizer.encode(PROMPT),
            tuple(tokenizer.eos_token_ids),
        )
        for _ in range(2)
    ]
    calm_garbage_collection()
    try:
        for bench in benches:
            run(bench, streams, 4, [None])
        shares, rate = schema_cost(benches, streams, tokens, rounds)
        compiling = held_up(benches[0], streams, tokens, [costly_to_compile(i) for i in range(3)])
        following = held_up(benches[0], streams, 2 * tokens, [costly_to_follow(i) for i in range(3)])
    finally:
        for bench in benches:
            bench.executor.close()
    low, cost, high = quantiles(shares, n=4)
    table = Table("what", "measured", "bound", title=f"{streams} streams of {tokens} tokens, {manifest.dtype}")
    table.add_row("a JSON schema on every stream, of throughput", f"{cost:.1%} ({low:.1%} to {high:.1%})", "10 %")
    table.add_row("beside a schema that cannot be compiled, steps", f"{compiling:.2f}", "1")
    table.add_row("beside a grammar that cannot be followed, steps", f"{following:.2f}", "1")
    Console().print(table)
    line = {
        "benchmark": "structured",
        "streams": streams,
        "pairs": len(shares),
        "schema_cost": cost,
        "schema_cost_quartiles": [low, high],
        "structured_tok_s_cpu": rate,
        "hostile_compile_steps": compiling,
        "hostile_follow_steps": following,
        "vocab_size": tokenizer.vocab_size,
        "dtype": manifest.dtype,
    }
    publish(line, record=record)


if __name__ == "__main__":
    main()
