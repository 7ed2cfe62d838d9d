"""What Triton costs: the same load on the embedded server and on Triton, over engines whose steps only take time.

python benchmarks/triton_overhead.py. Each server runs as a person would start it, in processes of its own. Last line: JSON.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from record import publish
from serving import Load, measure, show
from tests.e2e.triton import ADMIN_KEY, put_version, triton
from tests.engines import LOADER, NAME, worker_path, write_engine

from ingot.client.triton_process import free_ports

EMBEDDED = """
import sys
from pathlib import Path
from ingot.client.embedded import EmbeddedBackend, EmbeddedOptions
from ingot.client.openai.serve import ServeOptions, serve
from ingot.runtime.supervisor import SupervisorOptions
options = EmbeddedOptions(supervisor=SupervisorOptions(loader=sys.argv[3]))
serve(EmbeddedBackend(Path(sys.argv[1]), options), ServeOptions(port=int(sys.argv[2]), log_level="warning"))
"""


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[str]:
    """Runs a server until the block ends; yields its base URL once it is healthy."""
    environment = os.environ | {"PYTHONPATH": worker_path(), "INGOT_ADMIN_KEY": ADMIN_KEY}
    process = subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError):  # refused, or not answered yet
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def load_on(url: str, streams: int, requests: int) -> dict[str, Any]:
    load = Load(url=url, model=NAME, prompt="The quick brown fox", max_tokens=100)
    return measure(load, streams=streams, requests=requests, rate=0.0, ttft_ms=1000.0, itl_ms=100.0)


@click.command()
@click.option("--streams", default=64, show_default=True)
@click.option("--requests", default=256, show_default=True)
@click.option("--step-ms", default=20.0, show_default=True, help="How long a step takes.")
@click.option("--record", is_flag=True, help="Keep the figures in benchmarks/results/.")
def main(streams: int, requests: int, step_ms: float, record: bool) -> None:
    """Measures the embedded server, then `ingot serve --triton`."""
    with tempfile.TemporaryDirectory() as folder:
        engine = write_engine(
            Path(folder, NAME), step_seconds=step_ms / 1e3, max_num_seqs=streams, num_pages=32 * streams
        )
        (port,) = free_ports(1)
        with running(["-c", EMBEDDED, str(engine), str(port), LOADER], port) as url:
            embedded = load_on(url, streams, requests)
        show("embedded", embedded)
        repository = Path(folder, "repository")
        put_version(repository, NAME, 1, engine)
        with triton(repository, quiet=True) as server:
            (port,) = free_ports(1)
            words = ["-m", "ingot.cli", "serve", "--triton", server.grpc_address, "--port", str(port)]
            with running(words, port) as url:
                through = load_on(url, streams, requests)
        show("through Triton", through)
    kept = through["output_tok_s"] / embedded["output_tok_s"]
    added = through["ttft_ms_p50"] - embedded["ttft_ms_p50"]
    click.echo(f"Triton keeps {kept:.0%} of the tokens/s and adds {added:.1f} ms to the median TTFT")
    found = {"kept": round(kept, 3), "added_ttft_ms_p50": round(added, 2), "embedded": embedded, "triton": through}
    publish({"benchmark": "triton_overhead", "streams": streams, **found}, record=record)


if __name__ == "__main__":
    main()
