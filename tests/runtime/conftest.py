"""Kernels of GPU programs run in Triton's interpreter, which is chosen when a kernel is defined: before any import."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("markexpr") != "gpu":
        os.environ["TRITON_INTERPRET"] = "1"
