"""Waiting for what must come. A shared machine can stand still for seconds: a wait that is no claim is given a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

MINUTE = 60.0


def until(condition: Callable[[], object], seconds: float = MINUTE) -> float:
    """How long it took; fails past the deadline."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds:.0f} s"
        time.sleep(0.005)
    return time.monotonic() - began


async def until_async(condition: Callable[[], object], seconds: float = MINUTE) -> float:
    """The same for a test that runs in an event loop."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds:.0f} s"
        await asyncio.sleep(0.005)
    return time.monotonic() - began
