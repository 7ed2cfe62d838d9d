"""The rendered repository: what it holds, that Triton's schema takes it, and whose files it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from jinja2 import UndefinedError
from tests.templates.engines import engine_folder

from ingot.errors import DeploymentError
from ingot.templates import Deployment, ModelSpec
from ingot.templates.commands import render as command
from ingot.templates.render import check_config, render, strict_environment

GOLDEN = Path(__file__).parent / "golden"
CPU = ModelSpec(name="tiny", versions={1: "/engines/a", 2: "/engines/b"}, labels={"canary": 2}, weights={1: 90, 2: 10})
GPU = ModelSpec(name="large", versions={3: "/engines/c"}, device="gpu", gpu=1, policy="specific", served=(3,))
BOTH = Deployment(models=(CPU, GPU))


def texts(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["tiny", "large"])
def test_config_is_the_golden_one(tmp_path: Path, name: str) -> None:
    render(BOTH, tmp_path)
    assert (tmp_path / name / "config.pbtxt").read_text() == (GOLDEN / f"{name}.pbtxt").read_text()


def test_every_version_has_its_engine_and_its_program(tmp_path: Path) -> None:
    render(BOTH, tmp_path)
    assert json.loads((tmp_path / "tiny/2/engine.json").read_text()) == {"engine": "/engines/b"}
    assert json.loads((tmp_path / "large/3/engine.json").read_text()) == {"engine": "/engines/c"}
    for version in ("tiny/1", "tiny/2", "large/3"):
        compile((tmp_path / version / "model.py").read_text(), "model.py", "exec")
    assert json.loads((tmp_path / "routes.json").read_text()) == {
        "tiny": {"weights": {"1": 90, "2": 10}, "labels": {"canary": 2}}
    }


@pytest.mark.parametrize(
    "text", ["max_bach_size: 3", "max_batch_size: ${triton_max_batch_size}", 'max_batch_size: "3"', 'name: "other"']
)
def test_triton_schema_is_held(text: str) -> None:
    with pytest.raises(DeploymentError, match=r"config\.pbtxt"):
        check_config(text, "tiny")


def test_a_forgotten_variable_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        strict_environment().from_string("{{ model.batch }}").render(model=CPU)


def test_rendering_again_changes_nothing(tmp_path: Path) -> None:
    assert len(render(BOTH, tmp_path).written) == 9
    before = texts(tmp_path)
    again = render(BOTH, tmp_path)
    assert (again.written, again.removed) == ([], [])
    assert texts(tmp_path) == before


def test_a_new_rendering_replaces_only_its_own(tmp_path: Path) -> None:
    render(BOTH, tmp_path)
    (tmp_path / "README.md").write_text("mine")
    moved = ModelSpec(name="tiny", versions={1: "/engines/a", 2: "/engines/moved"})
    assert render(Deployment(models=(moved,)), tmp_path).written == ["tiny/2/engine.json"]
    assert (tmp_path / "README.md").read_text() == "mine"
    assert (tmp_path / "large/config.pbtxt").exists()


def test_a_persons_files_are_never_overwritten(tmp_path: Path) -> None:
    own = tmp_path / "tiny" / "config.pbtxt"
    own.parent.mkdir()
    own.write_text("mine")
    with pytest.raises(DeploymentError, match="was not rendered by ingot"):
        render(BOTH, tmp_path)
    assert texts(tmp_path) == {"tiny/config.pbtxt": "mine"}


def test_a_changed_file_is_never_overwritten(tmp_path: Path) -> None:
    render(BOTH, tmp_path)
    (tmp_path / "tiny/1/model.py").write_text("# my own")
    before = texts(tmp_path)
    moved = ModelSpec(name="tiny", versions={1: "/engines/x"})
    with pytest.raises(DeploymentError, match="was changed since"):
        render(Deployment(models=(moved,)), tmp_path)
    assert texts(tmp_path) == before


def test_a_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "tiny").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeploymentError, match="leads out"):
        render(BOTH, out)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_prune_removes_what_is_no_longer_named(tmp_path: Path) -> None:
    render(BOTH, tmp_path)
    (tmp_path / "large" / "notes.txt").write_text("mine")
    changes = render(Deployment(models=(CPU,)), tmp_path, prune=True)
    assert changes.removed == ["large/3/engine.json", "large/3/model.py", "large/config.pbtxt"]
    assert [path.name for path in (tmp_path / "large").iterdir()] == ["notes.txt"]


def test_a_damaged_ledger_stops_the_rendering(tmp_path: Path) -> None:
    render(BOTH, tmp_path)
    (tmp_path / ".rendered.json").write_text("{")
    with pytest.raises(DeploymentError, match="damaged"):
        render(BOTH, tmp_path)


def test_the_command_renders_routes_and_manifests(tmp_path: Path) -> None:
    engine = engine_folder(tmp_path, "one", "tiny")
    second = engine_folder(tmp_path, "two", "tiny")
    words = [str(engine), f"tiny@2={second}", "-o", str(tmp_path / "out"), "--manifests", str(tmp_path / "deploy")]
    done = CliRunner().invoke(
        command, [*words, "--label", "tiny:canary=2", "--weight", "tiny@1=9", "--weight", "tiny@2=1"]
    )
    assert done.exit_code == 0, done.output
    assert "wrote" in done.output
    assert json.loads((tmp_path / "out/routes.json").read_text())["tiny"] == {
        "weights": {"1": 9, "2": 1},
        "labels": {"canary": 2},
    }
    assert (tmp_path / "deploy/Dockerfile").is_file()


@pytest.mark.parametrize("option", [("--label", "tiny=2"), ("--label", "other:canary=1"), ("--weight", "tiny@x=1")])
def test_the_command_refuses_routes_it_cannot_read(tmp_path: Path, option: tuple[str, str]) -> None:
    engine = engine_folder(tmp_path, "one", "tiny")
    done = CliRunner().invoke(command, [str(engine), "-o", str(tmp_path / "out"), *option])
    assert isinstance(done.exception, DeploymentError)
    assert not (tmp_path / "out").exists()
