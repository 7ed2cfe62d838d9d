"""The last line of a benchmark: one JSON document, kept in benchmarks/results/ where asked to."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ingot.runtime.bench.lines import cpu_name

RESULTS = Path(__file__).parent / "results" / "cpu.jsonl"
LIBRARIES = ("torch", "transformers", "numpy")


def publish(line: dict[str, Any], *, record: bool) -> None:
    """Prints the line with what is needed to judge and repeat it; `record` appends it to the results as well."""
    line |= {
        "command": shlex.join(
            ["python", "benchmarks/" + Path(sys.argv[0]).name, *(word for word in sys.argv[1:] if word != "--record")]
        ),
        "machine": cpu_name(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if record:
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")
    print(json.dumps(line))
