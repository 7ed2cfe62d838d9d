"""The bundled model in two quantizations through Triton, as a person would do it: build, triton, ask, serve, stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from click.testing import CliRunner

from ingot.cli import cli
from ingot.client.triton_process import free_ports

ROOT = Path(__file__).resolve().parents[2]
KEY = "only-for-this-test"
QUESTION = "What is 17 + 25?"


@contextmanager
def ingot(*words: str, ready: str) -> Iterator[subprocess.Popen[str]]:
    """Runs a command until the block ends; yields once a line of its log holds `ready`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "INGOT_ADMIN_KEY": KEY}
    command = [sys.executable, "-m", "ingot.cli", *words]
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as run:
        try:
            assert run.stderr is not None
            told = []
            for line in run.stderr:
                told.append(line)
                if ready in line:
                    break
            else:
                pytest.fail("".join(told)[-5000:])
            yield run
        finally:
            run.send_signal(signal.SIGTERM)
            run.communicate(timeout=30)


def build(folder: Path, quant: str) -> Path:
    engine = folder / f"tiny-{quant}"
    words = ["--target", "cpu", "--quant", quant, "--cache", str(folder / "cache"), "--max-model-len", "256"]
    words += ["--verify-tokens", "512", "--kv-memory", str(64 << 20)]
    done = CliRunner().invoke(cli, ["build", str(ROOT / "examples" / "tiny"), "-o", str(engine), *words])
    assert done.exit_code == 0, done.output
    return engine


def ask(model: str, port: int) -> str:
    done = CliRunner().invoke(
        cli, ["ask", "--triton", f"127.0.0.1:{port}", "--model", model, "--temperature", "0", QUESTION]
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def test_two_quantizations_from_checkpoint_to_answers(tmp_path: Path) -> None:
    http, grpc, metrics = free_ports(3)
    ports = ["--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics)]
    engines = [f"plain={build(tmp_path, 'none')}", f"quantized={build(tmp_path, 'fp8-dynamic')}"]
    repository = ["--repository", str(tmp_path / "repository")]
    with ingot("triton", *engines, *repository, *ports, ready="quantized version 1: READY") as triton:
        assert "42" in ask("plain", grpc)
        assert "42" in ask("quantized", grpc)
        front = ["serve", "--triton", f"127.0.0.1:{grpc}", "--port", str(free_ports(1)[0])]
        with (
            ingot(*front, ready="ingot serves"),
            openai.OpenAI(base_url=f"http://127.0.0.1:{front[-1]}/v1", api_key="-") as client,
        ):
            assert [model.id for model in client.models.list()] == ["plain", "quantized"]
            for model in ("plain", "quantized"):
                reply = client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": QUESTION}], temperature=0
                )
                assert "42" in (reply.choices[0].message.content or "")
    assert triton.returncode == 0
    assert not list(Path("/dev/shm").glob(f"ingot_{triton.pid}_*"))
