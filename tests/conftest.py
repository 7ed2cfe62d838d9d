"""Kernels run in Triton's interpreter, unless it is a GPU's tests that run: Triton asks when a kernel is defined."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("markexpr") != "gpu":
        os.environ["TRITON_INTERPRET"] = "1"
