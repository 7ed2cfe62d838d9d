"""Kernels run in Triton's interpreter, unless it is a GPU's tests that run: Triton asks when a kernel is defined."""

from __future__ import annotations

import os
import signal

import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from tests.waiting import MINUTE


def pytest_configure(config: pytest.Config) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background it is ignored, by children too
    for phase in ("connect", "read", "write", "pool"):  # of every client that names no timeout
        setattr(DEFAULT_TIMEOUT_CONFIG, phase, MINUTE)
    if config.getoption("markexpr") != "gpu":
        os.environ["TRITON_INTERPRET"] = "1"
