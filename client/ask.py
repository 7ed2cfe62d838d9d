"""`ingot ask`: one question to an engine on a Triton server. The client library's command line, with no logic of its own."""

from __future__ import annotations

import sys
import time

import click


@click.command()
@click.argument("prompt")
@click.option("-m", "--model", required=True, help="The model's name on the server.")
@click.option("--version", default="", metavar="N", help="A version of it; the server's choice if not given.")
@click.option(
    "--triton", "address", default="localhost:8001", show_default=True, metavar="HOST:PORT", help="Its gRPC port."
)
@click.option("--raw", is_flag=True, help="Continues PROMPT as it stands, without the chat template.")
@click.option("--max-tokens", default=256, show_default=True, type=click.IntRange(1))
@click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(0, 2))
@click.option("--seed", type=int)
@click.option("--timeout", default=120.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Seconds.")
def ask(
    prompt: str,
    model: str,
    version: str,
    address: str,
    raw: bool,
    max_tokens: int,
    temperature: float,
    seed: int | None,
    timeout: float,
) -> None:
    """Ask PROMPT of a model that `ingot triton`, or any Triton server, serves; the answer is printed as it comes.

    PROMPT is a chat message; `-` reads it from standard input. Ctrl-C frees what the server holds for it.
    """
    from ingot.client import Client, SamplingParams
    from ingot.client.grpc_wire import PromptLike

    text = sys.stdin.read() if prompt == "-" else prompt
    asked: PromptLike = text if raw else [{"role": "user", "content": text}]
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
    began, first = time.monotonic(), 0.0
    with Client(address) as client, client.stream(model, asked, params, version=version, timeout=timeout) as chunks:
        for chunk in chunks:
            first = first or time.monotonic()
            click.echo(chunk.text, nl=False)
            if chunk.usage is not None:
                rate = chunk.usage.completion_tokens / (time.monotonic() - began)
                line = f"{chunk.usage.completion_tokens} tokens, first after {(first - began) * 1e3:.0f} ms, {rate:.0f} tokens/s"
                click.echo(f"\n{line} ({chunk.finish_reason})", err=True)
