"""How long from an engine folder to its first token, in a process of its own. Knows processes and clocks, no programs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from ingot.errors import EngineError
from ingot.manifest import read_manifest
from ingot.runtime.bench.first_token import Report

TIMEOUT_SECONDS = 540.0
KERNEL_CACHES = ("TRITON_CACHE_DIR", "CUDA_CACHE_PATH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    seconds: float  # from starting the process to its first token
    phases: dict[str, float]  # name -> seconds, in order
    report: Report

    def line(self) -> dict[str, Any]:
        phases = {name: round(seconds, 3) for name, seconds in self.phases.items()}
        line = {
            "benchmark": "start",
            "target": self.report.target,
            "seconds": round(self.seconds, 3),
            "phases_s": phases,
        }
        return line | ({"memory": self.report.memory} if self.report.memory else {})


def measure_start(engine: Path, *, cold: bool) -> Start:
    """`cold`: as on a machine that has never run it, with the engine's files on the disk alone and nothing compiled before.

    Raises EngineError where there is no engine, it does not load, with what its process said, or it takes too long.
    """
    read_manifest(engine)
    with tempfile.TemporaryDirectory() as empty:
        if cold:
            forget_files(engine)
        return time_process(engine, dict.fromkeys(KERNEL_CACHES, empty) if cold else {})


def time_process(engine: Path, environment: dict[str, str]) -> Start:
    command = [sys.executable, "-m", "ingot.runtime.bench.first_token", str(engine)]
    begin = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS, env=os.environ | environment
        )
    except subprocess.TimeoutExpired as late:
        raise EngineError(
            f"{engine} gave no token within {TIMEOUT_SECONDS:.0f} s.", mend="See what `ingot serve` logs."
        ) from late
    if done.returncode:
        said = done.stderr.strip().splitlines()[-2:]
        raise EngineError(f"{engine} did not start: {' '.join(said)}", mend="Mend that, then measure again.")
    report = msgspec.json.decode(done.stdout.splitlines()[-1], type=Report)
    ends = [begin, *(phase.end for phase in report.phases)]
    spans = [after - before for before, after in pairwise(ends)]
    names = [phase.name for phase in report.phases]
    return Start(seconds=ends[-1] - begin, phases=dict(zip(names, spans, strict=True)), report=report)


def forget_files(engine: Path) -> None:
    """Asks the system to drop the engine's files from its page cache: the next start reads them from the disk."""
    for path in engine.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())  # pages that are not written yet cannot be dropped
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
