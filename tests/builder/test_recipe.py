"""The recipe: every knob checked, every default in one place, and a command line that says it all again."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

import click
import pytest

from ingot.builder.commands import build
from ingot.builder.recipe import BOUNDS, QUANTS, Recipe
from ingot.errors import RecipeError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", ""),
        ("out", ""),
        ("quant", "fp7"),
        ("kv", "int8"),
        ("target", "tpu"),
        ("dtype", "float64"),
        ("max_model_len", 1),
        ("max_num_seqs", 0),
        ("max_num_batched_tokens", -1),
        ("page_size", 24),
        ("kv_memory", 0),
        ("calibration_samples", 0),
        ("calibration_length", 4),
        ("verify_tokens", 1),
        ("max_ppl_ratio", 0.0),
        ("max_ppl_ratio", float("nan")),
        ("max_kl", -0.1),
        ("min_agreement", 1.5),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_mend(field: str, value: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(**{"model": "m", "out": "o", field: value})
    assert caught.value.mend.endswith(".")


def test_a_step_has_room_for_every_sequence() -> None:
    with pytest.raises(RecipeError, match="max-num-batched-tokens 8 is less than --max-num-seqs 16"):
        Recipe(model="m", out="o", max_num_seqs=16, max_num_batched_tokens=8)


def test_unknown_knobs_are_impossible() -> None:
    with pytest.raises(TypeError, match="bitz"):
        Recipe(model="m", out="o", bitz=4)  # type: ignore[call-arg]


def test_every_quant_has_bounds() -> None:
    assert set(BOUNDS) == set(QUANTS)


def test_the_token_is_never_shown() -> None:
    recipe = Recipe(model="m", out="o", token="hf_secret")
    assert "hf_secret" not in f"{recipe!r} {recipe.public()} {recipe.command()}"


def test_the_command_line_has_the_recipes_defaults() -> None:
    defaults = {spec.name: spec.default for spec in dataclasses.fields(Recipe) if spec.metadata}
    options = {param.name: param for param in build.params if isinstance(param, click.Option)}
    assert {name: options[name].default if options[name].default is not None else None for name in defaults} == defaults
    assert set(options) - set(defaults) == {"out", "cache", "export"}


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"quant": "int4", "kv": "fp8", "max_kl": 0.5, "allow_quality_loss": True},
        {"name": "my model", "target": "cpu", "page_size": 32, "kv_memory": 123, "calibration": "a file.txt"},
    ],
)
def test_the_rebuild_command_parses_to_the_same_recipe(knobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    recipe = Recipe(model="org/model", out="engines/x y", **knobs)
    words = shlex.split(recipe.command())
    assert words[:2] == ["ingot", "build"]
    params = build.make_context("build", words[2:]).params
    assert Recipe(**{key: value for key, value in params.items() if key not in ("cache", "export")}) == recipe
