"""The shape of the repository is itself under test: where things live, how big they grow, who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("builder", "client", "network", "plugins", "runtime", "templates")
JUNK_DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
SOURCES = sorted(path for room in (*ROOMS, "src/ingot") for path in (ROOT / room).glob("**/*.py"))
HARNESS = sorted(path for folder in ("tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))

# Which rooms a room's modules may import. The loose modules of src/ingot (errors, manifest) are open to all.
ARROWS = {
    "network": {"network"},
    "plugins": {"plugins", "network"},
    "templates": {"templates"},
    "builder": {"builder", "network", "plugins", "templates"},
    "runtime": {"runtime", "network", "plugins"},
    "client": {"client", "runtime"},
}
NO_TORCH = ("scheduler", "pages", "prefix", "plan", "sequence", "params", "request", "messages")


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("room", ROOMS)
def test_import_name_is_a_link_to_the_top_level_folder(room: str) -> None:
    link = ROOT / "src" / "ingot" / room
    assert link.is_symlink()
    assert link.resolve() == ROOT / room


def test_no_junk_drawer_modules() -> None:
    assert not [path for path in SOURCES + HARNESS if path.stem in JUNK_DRAWERS]


@pytest.mark.parametrize("path", SOURCES + HARNESS, ids=names(SOURCES + HARNESS))
def test_file_fits_in_a_head(path: Path) -> None:
    limit = 600 if path.is_relative_to(ROOT / "plugins") else 300
    assert len(path.read_text().splitlines()) <= limit


@pytest.mark.parametrize("path", SOURCES, ids=names(SOURCES))
def test_module_says_what_it_knows(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "a module opens with what it knows and refuses to know"


@pytest.mark.parametrize("path", SOURCES, ids=names(SOURCES))
def test_functions_fit_on_a_screen(path: Path) -> None:
    functions = (
        n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    limit = 120 if path.is_relative_to(ROOT / "plugins") else 60
    assert not [f.name for f in functions if f.end_lineno and f.end_lineno - f.lineno > limit]


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_between_rooms_point_one_way(room: str) -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), module)
        for path in (ROOT / room).rglob("*.py")
        for module in imports(path)
        if module.startswith("ingot.") and module.split(".")[1] in ROOMS and module.split(".")[1] not in ARROWS[room]
    }
    assert not found


def test_policy_modules_know_no_torch() -> None:
    for name in NO_TORCH:
        tops = {module.split(".")[0] for module in imports(ROOT / "runtime" / f"{name}.py")}
        assert not tops & {"torch", "numpy", "triton", "fastapi"}, name


def test_every_package_folder_has_an_init() -> None:
    rooms = [path for path in SOURCES if not path.is_relative_to(ROOT / "src")]
    assert not [path for path in rooms if not (path.parent / "__init__.py").exists()]


def test_inheritance_is_one_deep_at_most() -> None:
    classes = [n for path in SOURCES for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ClassDef)]
    bases = {node.name: [getattr(base, "id", "") for base in node.bases] for node in classes}
    deep = [(name, base) for name, own in bases.items() for base in own if set(bases.get(base, [])) & set(bases)]
    assert not deep


def test_nothing_unpickles_or_runs_remote_code() -> None:
    banned = ("pickle", "dill", "cloudpickle", "shelve", "marshal")
    assert not [(path, module) for path in SOURCES for module in imports(path) if module.split(".")[0] in banned]
    texts = {path: path.read_text() for path in SOURCES}
    assert not [path for path, text in texts.items() if "trust_remote_code=True" in text or "torch.load(" in text]


@pytest.mark.parametrize("module", ["ingot.client", "ingot.network", "ingot.builder", "ingot.runtime", "ingot.cli"])
def test_importing_a_room_stays_light(module: str) -> None:
    probe = f"import sys, {module}; print({{'torch', 'triton', 'transformers', 'modelopt'}} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False, cwd="/")
    assert out.stdout.strip() == "set()", out.stderr
