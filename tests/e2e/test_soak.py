"""`make soak` in short: random clients of every dialect against the bundled model, with the same verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120
SEED = 7


@pytest.mark.timeout(600)
def test_a_short_soak_finds_nothing(engine: Path) -> None:
    words = [sys.executable, "benchmarks/soak.py", str(engine), "--seconds", str(SECONDS), "--seed", str(SEED)]
    done = subprocess.run([*words, "--clients", "24"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert (line["seed"], line["faults"], line["idle"]) == (SEED, 0, [0.0, 0.0, 0.0])
    assert set(line["outcomes"]) == {"valid", "invalid", "cancelled", "slow"}
    assert set(line["memory"]) == {"server", "executor", "templates", "grammars"}
    print(done.stdout)
