"""Whether kernels may be compiled now. Loading an engine refuses it: what it lacks would come back at every start."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from ingot.errors import EngineError

logger = logging.getLogger(__name__)
_refused: list[bool] = [False]


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """Meanwhile a kernel that would have to be compiled raises EngineError."""
    _refused.append(True)
    try:
        yield
    finally:
        _refused.pop()


def about_to_compile(kernel: str, *, carried: bool) -> None:
    """Called before a compiler is. `carried`: an engine is in use that should have brought the kernel."""
    if _refused[-1]:
        raise EngineError(
            f"The engine does not carry the compiled kernel {kernel}: another ingot or another kind of GPU built it.",
            mend="Build the engine again with this ingot, on this kind of GPU.",
        )
    if carried:
        logger.warning("compiling %s, which the engine does not carry", kernel)
