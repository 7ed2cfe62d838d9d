"""The names people may rely on. A change here is a change of the public API and belongs in the CHANGELOG."""

from __future__ import annotations

import importlib
import inspect

import pytest

import ingot.errors
from ingot.errors import IngotError

PUBLIC = {
    "ingot.client": {
        "AsyncClient",
        "AsyncStream",
        "Chunk",
        "Client",
        "ClientOptions",
        "Generation",
        "ModelState",
        "Prompt",
        "SamplingParams",
        "Stream",
    },
    "ingot.templates": {"Deployment", "ModelSpec"},
    "ingot": {"IngotError", "__version__"},
    "ingot.network": {"Batch", "Llama3Rope", "ModelConfig", "Ops", "Scheme", "Weight", "decoder"},
    "ingot.runtime": {"LLM", "Completion", "SamplingParams"},
}


@pytest.mark.parametrize("module", PUBLIC)
def test_all_is_what_we_promise(module: str) -> None:
    loaded = importlib.import_module(module)
    assert set(loaded.__all__) == PUBLIC[module]
    for name in loaded.__all__:
        assert getattr(loaded, name) is not None


def test_every_error_needs_a_mend() -> None:
    tree = [cls for _, cls in inspect.getmembers(ingot.errors, inspect.isclass) if issubclass(cls, IngotError)]
    assert len(tree) > 5
    for cls in tree:
        with pytest.raises(TypeError, match="mend"):
            cls("what went wrong")
        assert str(cls("It broke.", mend="Do this.")) == "It broke. Do this."


def test_error_tree_is_drawn_whole() -> None:
    drawing = ingot.errors.__doc__ or ""
    missing = [
        name
        for name, cls in inspect.getmembers(ingot.errors, inspect.isclass)
        if issubclass(cls, IngotError) and name not in drawing
    ]
    assert not missing
