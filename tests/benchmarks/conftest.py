"""What tests of the benchmarks share: their modules, and a small model's shape."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from transformers import LlamaConfig

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Loads a benchmark as scripts are run: its folder goes before others."""
    monkeypatch.syspath_prepend(BENCHMARKS)

    def load(name: str) -> ModuleType:
        monkeypatch.delitem(sys.modules, name, raising=False)
        found = __import__(name)
        monkeypatch.delitem(sys.modules, name)
        return found

    return load


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A folder with a small Llama's config.json."""
    shape = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=False, attention_bias=True, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    shape.save_pretrained(tmp_path / "config")
    return tmp_path / "config"
