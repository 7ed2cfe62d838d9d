"""A soak: random clients of every dialect against `ingot serve`, for minutes: python benchmarks/soak.py ENGINE [--seed N].

Valid, invalid, cancelled and slow requests, more than the engine runs at once. Fails, and names its seed, where an answer is
not what its request deserves, a stream hangs, a page or a file stays behind, or a process grows. Last line: JSON.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx
import psutil
from record import publish
from rich.console import Console
from rich.table import Table
from soak_clients import STALL_SECONDS, Counts, client
from soak_requests import SCHEMAS
from soak_watch import WARM_UP, Watch

MODEL = "soaked"
KEYS = {"one": "soak-key-one", "two": "soak-key-two", "slow": "soak-key-slow"}
KEY_FILE = "one=soak-key-one\ntwo=soak-key-two concurrent=40\nslow=soak-key-slow rpm=30\n"
SHOWN_WRONG = 10


@dataclass(frozen=True, slots=True)
class Service:
    url: str
    process: psutil.Process
    log: Path


@contextmanager
def serving(engine: Path) -> Iterator[Service]:
    """The server as a person would start it; its log is kept for the verdict."""
    with tempfile.TemporaryDirectory() as folder:
        keys, log = Path(folder) / "keys", Path(folder) / "log"
        keys.write_text(KEY_FILE)
        words = ["serve", str(engine), "--port", "0", "--served-model-name", MODEL, "--api-key-file", str(keys)]
        words += ["--max-queue", "64", "--stall-seconds", str(STALL_SECONDS / 2), "--log-level", "warning"]
        with (
            log.open("w") as file,
            subprocess.Popen([sys.executable, "-m", "ingot.cli", *words], stderr=file) as server,
        ):
            try:
                while not (found := re.search(r"at (http://\S+)/v1", log.read_text())):
                    if server.poll() is not None:
                        raise click.ClickException(log.read_text())
                    time.sleep(0.05)
                yield Service(found[1], psutil.Process(server.pid), log)
            finally:
                server.terminate()


async def soak(service: Service, *, seconds: float, seed: int, clients: int) -> tuple[Counts, Watch, dict[str, Any]]:
    counts, watch = Counts(), Watch(service.url, KEYS["one"], service.process)
    async with httpx.AsyncClient(timeout=120) as http:
        await warm_up(service.url, http)
        files = service.process.num_fds()
        until = asyncio.get_running_loop().time() + seconds
        keys = [KEYS["one"], KEYS["two"], KEYS["one"], KEYS["two"], KEYS["slow"]]
        running = [
            asyncio.create_task(client(service.url, MODEL, keys, f"{seed}-{number}", until, counts))
            for number in range(clients)
        ]
        while asyncio.get_running_loop().time() < until:
            await watch.look(http)
            await asyncio.sleep(1)
        await asyncio.gather(*running)
        idle = await watch.until_idle(http)
        codes = re.findall(
            r'^ingot:request_failure_total\{code="(\w+)".*\} (.+)$', await watch.metrics(http), re.MULTILINE
        )
        end = {"idle": idle, "files_kept": service.process.num_fds() - files}
    return counts, watch, end | {"failures": {code: float(count) for code, count in codes}}


async def warm_up(url: str, http: httpx.AsyncClient) -> None:
    """One chat with a schema, so that every process of the server is there before any is measured."""
    schema = {"name": "x", "schema": SCHEMAS[0]}
    body = {"model": MODEL, "messages": [{"role": "user", "content": "1"}], "max_tokens": 8}
    body |= {"response_format": {"type": "json_schema", "json_schema": schema}}
    headers = {"Authorization": f"Bearer {KEYS['one']}"}
    (await http.post(url + "/v1/chat/completions", json=body, headers=headers)).raise_for_status()


def faults(counts: Counts, watch: Watch, end: dict[str, Any], log: str) -> list[str]:
    """Everything that a soak must not show."""
    found = counts.wrong[:SHOWN_WRONG]
    if any(end["idle"]):
        found.append(f"running, waiting, pages held at the end: {end['idle']}")
    if end["files_kept"] > 2:
        found.append(f"the server has {end['files_kept']} files more open than before")
    for role, line in watch.growth().items():
        if line["growth_mib"] > line["bound_mib"]:
            found.append(f"{role} grew: {line}")
    if "Traceback" in log:
        found.append("the log has a traceback: " + log[log.index("Traceback") :][:2000])
    return found


def show(counts: Counts, watch: Watch, console: Console) -> None:
    table = Table("dialect", "kind", "outcomes")
    kinds: dict[tuple[str, str], Counter[str]] = {}
    for (dialect, kind, outcome), number in sorted(counts.outcomes.items()):
        kinds.setdefault((dialect, kind), Counter())[outcome] = number
    for (dialect, kind), outcomes in kinds.items():
        table.add_row(dialect, kind, ", ".join(f"{number} {outcome}" for outcome, number in outcomes.most_common()))
    console.print(table)
    memory = Table("process", "MiB", "MiB a minute", "growth, MiB", "bound, MiB")
    for role, line in watch.growth().items():
        memory.add_row(role, *(f"{value:.2f}" for value in line.values()))
    console.print(memory)


@click.command()
@click.argument("engine", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--seconds", default=1200.0, show_default=True, type=click.FloatRange(5))
@click.option("--seed", default=1, show_default=True)
@click.option("--clients", default=48, show_default=True, type=click.IntRange(1))
@click.option("--record", is_flag=True, help="Append the JSON line to benchmarks/results/.")
def main(engine: Path, seconds: float, seed: int, clients: int, record: bool) -> None:
    """Random clients against a live server, then the count of what they saw."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with serving(engine) as service:
        counts, watch, end = asyncio.run(soak(service, seconds=seconds, seed=seed, clients=clients))
        found = faults(counts, watch, end, service.log.read_text())
    show(counts, watch, Console(width=120))
    by_kind: dict[str, Counter[str]] = {}
    for (_, kind, outcome), number in counts.outcomes.items():
        by_kind.setdefault(kind, Counter())[outcome] += number
    line = {
        "benchmark": "soak",
        "seconds": seconds,
        "seed": seed,
        "clients": clients,
        "requests": counts.outcomes.total(),
        "outcomes": {kind: dict(outcomes) for kind, outcomes in sorted(by_kind.items())},
        "most_running": max(watch.running),
        "most_waiting": max(watch.waiting),
        "warm_up": WARM_UP,
        "memory": watch.growth(),
        **end,
        "faults": len(found),
    }
    publish(line, record=record)
    if found:
        raise click.ClickException("\n".join([f"the soak with --seed {seed} found:", *found]))


if __name__ == "__main__":
    main()
