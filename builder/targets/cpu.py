"""The cpu target: reference ops run packed weights as they are, so there is nothing to compile."""

from __future__ import annotations

from pathlib import Path

from ingot.builder.targets import Compiled, CompileJob


def compile_engine(job: CompileJob, folder: Path) -> Compiled:
    return Compiled()
