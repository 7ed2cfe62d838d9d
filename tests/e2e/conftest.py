"""The bundled model, built once for all that serve it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.e2e.cli import ingot

# Each server would import xgrammar besides, for tests that hardly ever send a grammar.
os.environ.setdefault("INGOT_WARM_GRAMMARS", "0")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    words = ["--target", "cpu", "--quant", "none", "--cache", str(folder / "cache"), "--max-model-len", "256"]
    with ingot("build", str(ROOT / "examples" / "tiny"), "-o", str(folder / "engine"), *words) as build:
        _, told = build.communicate(timeout=120)
    assert build.returncode == 0, told
    return folder / "engine"
