"""An engine folder to an executor that is ready to step: checked first, then loaded. Knows no request and no process."""

from __future__ import annotations

from pathlib import Path

from ingot.manifest import check_files, read_manifest
from ingot.runtime.executor import Executor
from ingot.runtime.grammars.compiler import GrammarCompiler
from ingot.runtime.text import Tokenizer

UNBOUNDED = 2**31 - 1  # whoever is in front bounds the queue


def load_executor(engine: Path) -> Executor:
    """Raises EngineError where the engine is damaged or was built for something else."""
    from ingot.runtime.programs import load_program  # brings torch

    manifest = read_manifest(engine)
    check_files(engine, manifest)
    tokenizer = Tokenizer.from_engine(engine)
    return Executor(
        load_program(engine, manifest),
        manifest.limits,
        tokenizer.eos_token_ids,
        max_waiting=UNBOUNDED,
        grammars=GrammarCompiler(tokenizer.vocabulary()),
    )
