"""Load on an OpenAI endpoint: python benchmarks/serving.py URL --model NAME. Percentiles as a table; last line: JSON.

TTFT is from the request to the first token, ITL between a request's tokens, E2E to its end. Goodput counts the requests
that kept both bounds. With --rate requests arrive as a Poisson process; without, --streams of them are always open.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import click
from record import publish
from rich.console import Console
from rich.table import Table


@dataclass(slots=True)
class Timing:
    """One request: the moment of each event that brought tokens, in seconds since it was sent."""

    at: list[float] = field(default_factory=list)
    tokens: int = 0
    error: str = ""

    @property
    def first(self) -> float:
        return self.at[0]

    @property
    def gaps(self) -> list[float]:
        """Mean time between tokens: an event may bring several."""
        return [(self.at[-1] - self.at[0]) / (self.tokens - 1)] if self.tokens > 1 else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    url: str
    model: str
    prompt: str
    max_tokens: int  # on average: answers are half to one and a half times as long, so that they do not end together
    api_key: str = "none"

    async def send(self) -> Timing:
        """One streamed request over a connection of its own. A client library would cost more than what is measured."""
        parts = urlsplit(self.url)
        length = random.randint(self.max_tokens // 2 + 1, self.max_tokens * 3 // 2)
        body: dict[str, Any] = {"model": self.model, "prompt": self.prompt, "max_tokens": length}
        body |= {"stream": True, "ignore_eos": True, "stream_options": {"include_usage": True}}
        content = json.dumps(body)
        head = (
            f"POST {parts.path.rstrip('/')}/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
            f"Authorization: Bearer {self.api_key}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        timing, began = Timing(), time.perf_counter()
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
        try:
            writer.write(head.encode() + content.encode())
            status = (await reader.readline()).decode().split(" ", 2)[1]
            if status != "200":
                timing.error = f"HTTP {status}"
                return timing
            async for line in reader:
                if line.startswith(b"data: {"):
                    take(timing, line[6:], time.perf_counter() - began)
        finally:
            writer.close()
        return timing


def take(timing: Timing, data: bytes, now: float) -> None:
    if b'"usage":{' in data:
        timing.tokens = json.loads(data)["usage"]["completion_tokens"]
    elif b'"error"' in data:
        timing.error = data.decode()[:200]
    else:
        timing.at.append(now)


async def closed(load: Load, streams: int, requests: int) -> list[Timing]:
    """`streams` people, each asking again as soon as answered."""
    left = iter(range(requests))

    async def person() -> list[Timing]:
        return [await load.send() for _ in left]

    return [timing for own in await asyncio.gather(*(person() for _ in range(streams))) for timing in own]


async def opened(load: Load, rate: float, requests: int) -> list[Timing]:
    """Arrivals that wait for nobody."""
    rng, sent = random.Random(0), []
    for _ in range(requests):
        sent.append(asyncio.create_task(load.send()))
        await asyncio.sleep(rng.expovariate(rate))
    return await asyncio.gather(*sent)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def figures(timings: list[Timing], seconds: float, *, ttft_ms: float, itl_ms: float) -> dict[str, Any]:
    good = [timing for timing in timings if not timing.error and timing.at]
    kept = [t for t in good if t.first * 1e3 <= ttft_ms and all(gap * 1e3 <= itl_ms for gap in t.gaps)]
    series = {
        "ttft": [timing.first for timing in good],
        "itl": [gap for timing in good for gap in timing.gaps],
        "e2e": [timing.at[-1] for timing in good],
    }
    found = {
        f"{name}_ms_p{int(share * 100)}": round(percentile(values, share) * 1e3, 2)
        for name, values in series.items()
        for share in (0.5, 0.9, 0.99)
    }
    return found | {
        "requests": len(timings),
        "failed": len(timings) - len(good),
        "output_tok_s": round(sum(timing.tokens for timing in good) / seconds, 1),
        "goodput_req_s": round(len(kept) / seconds, 2),
        "seconds": round(seconds, 2),
    }


def measure(load: Load, *, streams: int, requests: int, rate: float, ttft_ms: float, itl_ms: float) -> dict[str, Any]:
    async def run() -> tuple[list[Timing], float]:
        await asyncio.gather(*(load.send() for _ in range(4)))  # what is made on first use is made
        began = time.perf_counter()
        random.seed(0)  # the same lengths for every server
        timings = await (opened(load, rate, requests) if rate else closed(load, streams, requests))
        return timings, time.perf_counter() - began

    timings, seconds = asyncio.run(run())
    return figures(timings, seconds, ttft_ms=ttft_ms, itl_ms=itl_ms)


def show(title: str, found: dict[str, Any]) -> None:
    table = Table("ms", "p50", "p90", "p99", title=title)
    for name in ("ttft", "itl", "e2e"):
        table.add_row(name.upper(), *(f"{found[f'{name}_ms_p{share}']:.1f}" for share in (50, 90, 99)))
    Console().print(table)
    click.echo(
        f"{found['output_tok_s']:,.0f} tokens/s, {found['goodput_req_s']:.1f} good requests/s, "
        f"{found['failed']} of {found['requests']} failed"
    )


@click.command()
@click.argument("url")
@click.option("--model", required=True)
@click.option("--streams", default=64, show_default=True)
@click.option("--requests", default=512, show_default=True)
@click.option("--rate", default=0.0, help="Requests a second; 0 keeps --streams open instead.")
@click.option("--prompt", default="The quick brown fox", show_default=True)
@click.option("--max-tokens", default=64, show_default=True)
@click.option("--api-key", default="none", envvar="INGOT_API_KEY")
@click.option("--ttft-ms", default=1000.0, show_default=True, help="Goodput's bound on TTFT.")
@click.option("--record", is_flag=True, help="Keep the figures in benchmarks/results/.")
@click.option("--itl-ms", default=100.0, show_default=True, help="Goodput's bound on the mean ITL.")
def main(
    url: str,
    model: str,
    streams: int,
    requests: int,
    rate: float,
    prompt: str,
    max_tokens: int,
    api_key: str,
    ttft_ms: float,
    itl_ms: float,
    record: bool,
) -> None:
    """Asks URL (an OpenAI base URL, with /v1) many times at once and prints how long it took."""
    load = Load(url=url, model=model, prompt=prompt, max_tokens=max_tokens, api_key=api_key)
    found = measure(load, streams=streams, requests=requests, rate=rate, ttft_ms=ttft_ms, itl_ms=itl_ms)
    show(f"{model} at {url}", found)
    publish({"benchmark": "serving", "streams": streams, **found}, record=record)


if __name__ == "__main__":
    main()
