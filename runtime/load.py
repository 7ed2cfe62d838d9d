"""An engine folder to an executor that is ready to step: checked first, then loaded. Knows no request and no process."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from ingot.manifest import Manifest, check_files, read_manifest
from ingot.runtime.encoder_executor import EncoderExecutor
from ingot.runtime.executor import Executor
from ingot.runtime.grammars.compiler import GrammarCompiler
from ingot.runtime.text import Tokenizer

WARM_GRAMMARS = "INGOT_WARM_GRAMMARS"  # 0: the first grammar pays for what it needs, and nobody else does
UNBOUNDED = 2**31 - 1  # whoever is in front bounds the queue


def load_executor(engine: Path) -> Executor | EncoderExecutor:
    """Raises EngineError where the engine is damaged or was built for something else."""
    manifest = read_manifest(engine)
    check_files(engine, manifest)
    if "generate" in manifest.tasks:
        return load_decoder(engine, manifest)
    from ingot.runtime.programs import load_encoder  # brings torch

    executor = EncoderExecutor(load_encoder(engine, manifest), manifest.limits)
    calm_garbage_collection()
    return executor


def load_decoder(engine: Path, manifest: Manifest) -> Executor:
    """The executor of a checked engine that generates. Grammars are warmed beside the load."""
    from ingot.runtime.programs import load_program  # brings torch

    tokenizer = Tokenizer.from_engine(engine)
    grammars = GrammarCompiler(tokenizer.vocabulary())
    if os.environ.get(WARM_GRAMMARS, "1") != "0":
        import torch  # noqa: F401

        grammars.warm()
    executor = Executor(
        load_program(engine, manifest),
        manifest.limits,
        tokenizer.eos_token_ids,
        max_waiting=UNBOUNDED,
        grammars=grammars,
    )
    calm_garbage_collection()
    return executor


def calm_garbage_collection() -> None:
    """For the process that steps. Reference counts free what a step leaves behind; a full collection in the middle of one
    holds everybody up for tens of milliseconds, so the collector forgets what is loaded and looks seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
