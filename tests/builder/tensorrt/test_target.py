"""`--target tensorrt-rtx` through the whole build, and the recipes it refuses before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import load_file

from ingot.builder.build import build_engine
from ingot.builder.progress import Reporter
from ingot.builder.recipe import Recipe
from ingot.builder.reverify import verify_engine
from ingot.errors import EngineError, RecipeError
from ingot.manifest import check_files, read_manifest
from ingot.plans import read_plans


def test_an_engine_of_plans(llama: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        model=str(llama),
        out=str(tmp_path / "engine"),
        quant="fp8-dynamic",
        kv="fp8",
        target="tensorrt-rtx",
        sm="120,89",
        max_num_batched_tokens=64,
        max_num_seqs=8,
        verify_tokens=64,
        allow_quality_loss=True,
    )
    console = Console(record=True, width=120)
    engine = build_engine(recipe, cache=tmp_path / "cache", reporter=Reporter(console))
    manifest = read_manifest(engine)
    check_files(engine, manifest)
    assert (manifest.target, manifest.sm) == ("tensorrt-rtx", [89, 120])
    assert manifest.versions["tensorrt_rtx"] == read_plans(engine).library
    assert manifest.memory["contexts"] > 0
    assert "--target tensorrt-rtx --sm 120,89" in manifest.rebuild
    assert {"plan/segment_1.plan", "plan/segment_1.log", "plan/segments.json"} < manifest.files.keys()
    beside = [name for path in (engine / "weights").glob("*.safetensors") for name in load_file(path)]
    assert beside == ["layers.0.kv_scale", "layers.1.kv_scale"], "the rest is in the plans, once"
    with pytest.raises(EngineError, match=r"inside compiled plans.* --files-only"):
        verify_engine(engine, manifest, model=None, reporter=Reporter.silent())
    shown = console.export_text()
    assert "plans for SM 8.9, 12.0" in shown
    assert "4 fp8" in shown


@pytest.mark.parametrize(
    ("knobs", "match"),
    [
        ({"target": "cpu", "sm": "89"}, "says nothing to --target cpu"),
        ({"target": "tensorrt-rtx", "sm": "8.9"}, "--sm is '8.9'"),
        ({"target": "tensorrt-rtx"}, "No GPU is named"),
        ({"target": "tensorrt-rtx", "sm": "90"}, r"does not build for SM 9\.0"),
        ({"target": "tensorrt-rtx", "sm": "80,89", "quant": "fp8"}, r"fp8 needs SM 8\.9"),
        ({"target": "tensorrt-rtx", "sm": "89", "quant": "nvfp4"}, r"nvfp4 needs SM 12\.0"),
        ({"target": "tensorrt-rtx", "sm": "86,89", "kv": "fp8"}, r"An fp8 KV cache needs SM 8\.9"),
    ],
)
def test_a_recipe_it_cannot_build_is_refused_at_once(
    knobs: dict[str, Any], match: str, llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=match):
        build_engine(Recipe(model=str(llama), out=str(tmp_path / "engine"), **knobs), cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
