"""Content-addressed results of build stages: a stage whose inputs are unchanged is taken from the cache, not run again.

Knows folders and digests; refuses to know what a stage does.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_CACHE = Path("~/.cache/ingot")


@dataclass(frozen=True, slots=True)
class StageCache:
    """One folder per finished stage: <root>/<stage>-<digest of its inputs>."""

    root: Path

    def run(self, stage: str, inputs: Mapping[str, Any], work: Callable[[Path], None]) -> Path:
        """The folder `work` filled, now or in an earlier build.

        `work` writes into a folder of another name that is renamed once it returns, so a build killed half-way leaves
        nothing that looks finished. The next run of the same stage clears the remains of processes that are gone.
        """
        done = self.root / f"{stage}-{digest(inputs)}"
        if done.is_dir():
            return done
        self.root.mkdir(parents=True, exist_ok=True)
        self._clear_remains(done.name)
        part = self.root / f"{done.name}.part-{os.getpid()}"
        part.mkdir()
        try:
            work(part)
            (part / "stage.json").write_text(json.dumps(dict(inputs), indent=2, default=str) + "\n")
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        if done.is_dir():  # another build finished the same stage first
            shutil.rmtree(part)
        else:
            part.rename(done)
        return done

    @contextmanager
    def claim(self, stages: Sequence[Path]) -> Iterator[list[Path]]:
        """Takes finished stages out of the cache, for their files to be moved rather than copied. What is left is removed."""
        parts = [done.rename(done.with_name(f"{done.name}.part-{os.getpid()}")) for done in stages]
        try:
            yield parts
        finally:
            for part in parts:
                shutil.rmtree(part)

    def _clear_remains(self, name: str) -> None:
        for part in self.root.glob(f"{name}.part-*"):
            if not process_lives(int(part.name.rpartition("-")[2])):
                shutil.rmtree(part)


def digest(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(inputs), sort_keys=True, default=str).encode()).hexdigest()[:24]


def process_lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
