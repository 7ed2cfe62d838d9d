"""Kernels that TensorRT-RTX compiled where an engine runs, kept for its next start. Whether they still fit the library says."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from ingot.manifest import Manifest
from ingot.plugins.cubin import cache_folder

logger = logging.getLogger(__name__)


class JitCache:
    """One runtime cache for all plans of an engine. Contexts are created with `attach`ed configurations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cache: Any = None

    @classmethod
    def of(cls, manifest: Manifest) -> JitCache:
        """Beside our own compiled kernels, under the digest of the engine's plans."""
        plans = sorted(record.sha256 for name, record in manifest.files.items() if name.endswith(".plan"))
        return cls(cache_folder() / f"tensorrt-rtx-{hashlib.sha256(''.join(plans).encode()).hexdigest()[:24]}.cache")

    def attach(self, config: Any) -> None:
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self._path.is_file() and not self._cache.deserialize(self._path.read_bytes()):
                logger.info(
                    "%s was made on another machine or by another library: kernels are compiled again.", self._path
                )
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Once everything that a start compiles is compiled. A folder that cannot be written to costs the next start time."""
        if self._cache is None:
            return
        part = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(self._cache.serialize())
            part.replace(self._path)
        except OSError as error:
            logger.warning("Compiled kernels cannot be kept for the next start: %s.", error)
