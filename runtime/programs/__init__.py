"""The executable forwards of engines, one module per target. Choosing one imports only what that target needs."""

from __future__ import annotations

from pathlib import Path

from ingot.errors import EngineError
from ingot.manifest import Manifest
from ingot.runtime.encoder_executor import VectorProgram
from ingot.runtime.plan import Program

TARGETS = ("cpu", "cuda", "tensorrt", "tensorrt-rtx")


def load_program(engine: Path, manifest: Manifest) -> Program:
    """The program of a checked engine folder. Raises EngineError for a target this ingot cannot run."""
    if manifest.target == "cpu":
        from ingot.runtime.programs.cpu import load_cpu_program

        return load_cpu_program(engine, manifest)
    if manifest.target == "cuda":
        from ingot.runtime.programs.cuda import load_cuda_program

        return load_cuda_program(engine, manifest)
    if manifest.target in ("tensorrt", "tensorrt-rtx"):
        from ingot.runtime.programs.plan_program import load_plan_program

        return load_plan_program(engine, manifest)
    raise EngineError(
        f"{engine} was compiled for target {manifest.target!r}; this ingot runs {', '.join(TARGETS)}.",
        mend="Build it for one of these: ingot build MODEL -o DIR --target cpu.",
    )


def load_encoder(engine: Path, manifest: Manifest) -> VectorProgram:
    """The program of a checked engine that makes vectors alone. Raises EngineError for a target this ingot cannot run."""
    if manifest.target != "cpu":
        raise EngineError(
            f"{engine} is an encoder compiled for target {manifest.target!r}; this ingot runs encoders on cpu.",
            mend="Build it so: ingot build MODEL -o DIR --target cpu.",
        )
    from ingot.runtime.programs.encoder import load_encoder_program

    return load_encoder_program(engine, manifest)
