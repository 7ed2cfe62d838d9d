"""What a Deployment takes, and what it says to the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.templates.engines import engine_folder

from ingot.errors import DeploymentError, EngineError
from ingot.templates import Deployment, ModelSpec
from ingot.templates.deployment import read_models

TWO: dict[int, str] = {1: "/engines/a", 2: "/engines/b"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "../up"}, "folder and model name"),
        ({"name": ""}, "folder and model name"),
        ({"versions": {}}, "from 1"),
        ({"versions": {0: "/engines/a"}}, "from 1"),
        ({"device": "tpu"}, "Use one of cpu, gpu"),
        ({"policy": "newest"}, "Use one of all, latest, specific"),
        ({"policy": "specific"}, "List versions"),
        ({"served": (1,)}, "List versions"),
        ({"labels": {"canary": 3}}, "version 3"),
        ({"weights": {3: 10}}, "version 3"),
        ({"weights": {1: 0}}, "at least one above 0"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(DeploymentError) as caught:
        ModelSpec(**({"name": "tiny", "versions": TWO} | fields))
    assert words in str(caught.value)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(TypeError):
        ModelSpec(name="tiny", versions=TWO, replica=2)  # type: ignore[call-arg]


def test_names_come_once() -> None:
    model = ModelSpec(name="tiny", versions=TWO)
    with pytest.raises(DeploymentError):
        Deployment(models=(model, model))
    with pytest.raises(DeploymentError):
        Deployment(models=())


def test_words_become_models(tmp_path: Path) -> None:
    first = engine_folder(tmp_path, "one", "tiny")
    second = engine_folder(tmp_path, "two", "tiny")
    big = engine_folder(tmp_path, "big", "big", "cuda")
    models = read_models((str(first), f"tiny@2={second}", f"large={big}"))
    assert models == [
        ModelSpec(name="tiny", versions={1: str(first), 2: str(second)}),
        ModelSpec(name="large", versions={1: str(big)}, device="gpu"),
    ]


def test_engine_root_is_where_the_server_sees_the_engines(tmp_path: Path) -> None:
    engine = engine_folder(tmp_path, "one", "tiny")
    assert read_models((str(engine),), engine_root="/engines/")[0].versions == {1: "/engines/one"}


def test_what_is_no_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="ingot build"):
        read_models((str(tmp_path / "none"),))
    with pytest.raises(EngineError, match="not an engine"):
        read_models((str(tmp_path),))


def test_versions_clash(tmp_path: Path) -> None:
    engine = str(engine_folder(tmp_path, "one", "tiny"))
    gpu = str(engine_folder(tmp_path, "two", "tiny", "cuda"))
    for words in ((engine, engine), (f"tiny@x={engine}",), (engine, f"tiny@2={gpu}")):
        with pytest.raises(DeploymentError):
            read_models(words)
