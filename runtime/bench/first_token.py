"""The process that `ingot bench start` times: an engine folder to its first token. Prints one JSON line of what ended when.

    python -m ingot.runtime.bench.first_token ENGINE

Times are time.monotonic(), which on one machine is the same clock in every process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

PROMPT = "Once upon a time"


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    end: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    target: str
    phases: list[Phase]
    memory: dict[str, object] | None
    told: str  # of the memory, for people
    device: str


def load(engine: Path) -> Iterator[str | Report]:
    """The phases' names, each when it has ended, and the report with no phases in the end. Raises EngineError."""
    import torch

    from ingot.manifest import check_files, read_manifest
    from ingot.runtime.bench.memory import memory_use
    from ingot.runtime.llm import LLM
    from ingot.runtime.params import SamplingParams
    from ingot.runtime.programs import load_program
    from ingot.runtime.text import Tokenizer

    yield "process and imports"
    manifest = read_manifest(engine)
    check_files(engine, manifest)
    yield "digests of every file"
    tokenizer = Tokenizer.from_engine(engine)
    yield "tokenizer"
    on_gpu = manifest.target != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.init()
        yield "CUDA context"
    program = load_program(engine, manifest)
    yield "weights, KV pool and graphs"
    with LLM.of(program, tokenizer, manifest.limits, manifest.name) as llm:
        llm.generate(PROMPT, SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True))
        yield "first token"
        use = memory_use() if on_gpu else None
        name = torch.cuda.get_device_name() if on_gpu else ""
    yield Report(
        target=manifest.target, phases=[], memory=use.line() if use else None, told=str(use) if use else "", device=name
    )


def main() -> None:
    """Exit code 1 and a message on standard error where the engine does not load."""
    from ingot.errors import IngotError

    phases: list[Phase] = []
    try:
        for told in load(Path(sys.argv[1])):
            if isinstance(told, Report):
                sys.stdout.write(msgspec.json.encode(msgspec.structs.replace(told, phases=phases)).decode() + "\n")
            else:
                phases.append(Phase(name=told, end=time.monotonic()))
    except IngotError as error:
        sys.exit(f"{error.message}\n{error.mend}")


if __name__ == "__main__":
    main()
