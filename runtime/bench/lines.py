"""Results as JSON lines, one per engine, mode and workload, and the comparison of two engines' lines. Measures nothing."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from ingot.errors import RequestError

OURS = "ingot"
LIBRARIES = ("torch", "triton", "numpy")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison reads of an offline result; a line may hold more."""

    run: str  # one id for all that ran together
    engine: str  # ingot, vllm-0.26.0
    mode: str  # bf16, fp8kv
    quant: str = ""  # none, fp8, fp8-dynamic; another engine's: fp8 online, fp8 checkpoint; empty in old lines
    isl: int
    osl: int
    requests: int
    output_tok_s: float
    limit_tok_s: float | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What two engines' lines have in common: mode and workload."""
        return self.mode, f"{self.isl}/{self.osl} x {self.requests}"


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """The same work by two engines."""

    ours: Line
    theirs: Line

    @property
    def ratio(self) -> float:
        return self.ours.output_tok_s / self.theirs.output_tok_s


def read_lines(path: Path) -> list[Line]:
    """The offline results of a file; other benchmarks' lines are passed over. Raises RequestError for what is no JSON."""
    try:
        return as_lines(json.loads(text) for text in path.read_text().splitlines())
    except (OSError, ValueError, AttributeError) as error:
        raise RequestError(f"{path} does not hold results: {error}.", mend="Name a file of JSON lines.") from error


def as_lines(lines: Iterable[Mapping[str, Any]]) -> list[Line]:
    """Those that are offline results. Raises msgspec.ValidationError, a ValueError, for fields of other types."""
    needed = {"engine", "mode", "isl", "osl", "requests", "output_tok_s"}
    return [msgspec.convert(line, Line) for line in lines if needed <= line.keys()]


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """At once, so that a run that is cut short loses only what it had not measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def rivals(lines: Iterable[Line], run: str) -> list[Line]:
    """Other engines' lines of a run. Raises RequestError where there are none: a comparison across runs is none."""
    others = [line for line in lines if line.engine != OURS]
    found = [line for line in others if line.run == run]
    if not found:
        have = ", ".join(sorted({line.run for line in others})) or "none"
        raise RequestError(
            f"There is no other engine's result of run {run!r} to compare with. Runs in the file: {have}.",
            mend="Measure both with one --run, or name theirs with --versus-run.",
        )
    return found


def counted(lines: Iterable[Line]) -> list[Line]:
    """Of each engine, mode and workload the one line that a comparison takes: the last of ours, and another engine's fastest, which may
    have run in several ways. `lines` are of one run."""
    found: dict[tuple[str, tuple[str, str]], Line] = {}
    for line in lines:
        place = line.engine, line.key
        if line.engine == OURS or place not in found or line.output_tok_s > found[place].output_tok_s:
            found[place] = line
    return list(found.values())


def ratios(ours: Iterable[Line], theirs: Iterable[Line]) -> list[Ratio]:
    """Our counted lines beside each other engine's of the same mode and workload, of one run (see `rivals`)."""
    others = sorted(counted(theirs), key=lambda line: line.engine)
    own = [line for line in counted(ours) if line.engine == OURS]
    return [Ratio(ours=line, theirs=other) for line in own for other in others if line.key == other.key]


def provenance(device_name: str) -> dict[str, Any]:
    """What is needed to judge and repeat a line."""
    versions = {"python": platform.python_version(), "gpu" if device_name else "cpu": device_name or cpu_name()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "command": command_line(sys.argv[1:]),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def command_line(words: list[str]) -> str:
    """As a person would repeat it: where the results went is left out."""
    kept = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if before != "--output" and word.partition("=")[0] != "--output"
    ]
    return shlex.join(["ingot", *kept])


def cpu_name() -> str:
    """The processor as Linux names it, or its architecture elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def new_run() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
