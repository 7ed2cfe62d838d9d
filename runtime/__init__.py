"""Engine folder in, tokens out: scheduler, KV pages, prefix tree, programs, sampling, text. Knows no HTTP and no Triton."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ingot.runtime.llm import LLM, Completion
    from ingot.runtime.params import SamplingParams

__all__ = ["LLM", "Completion", "SamplingParams"]

_HOMES = {"LLM": "ingot.runtime.llm", "Completion": "ingot.runtime.llm", "SamplingParams": "ingot.runtime.params"}


def __getattr__(name: str) -> object:
    """Loads a name when it is first asked for (PEP 562): importing the package stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
