"""Pages that are made from the program are compared with the program."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_cli_page_is_what_help_prints() -> None:
    out = subprocess.run([sys.executable, ROOT / "docs" / "cli_page.py"], capture_output=True, text=True, check=True)
    assert (ROOT / "docs" / "cli.md").read_text() == out.stdout, "run `make docs`"


def test_openai_page_is_what_the_code_honours() -> None:
    out = subprocess.run([sys.executable, ROOT / "docs" / "openai_page.py"], capture_output=True, text=True, check=True)
    assert (ROOT / "docs" / "openai.md").read_text() == out.stdout, "run `make docs`"


def test_request_journey_names_functions_that_exist() -> None:
    """docs/request.md names each station as `file:function`; every one of them must be there."""
    stations = re.findall(r"`([a-z_/]+\.py):([A-Za-z_.]+)`", (ROOT / "docs" / "request.md").read_text())
    assert stations
    missing = [
        f"{file}:{name}"
        for file, name in stations
        if not re.search(rf"(def|class) {name.split('.')[-1]}\b", (ROOT / file).read_text())
    ]
    assert not missing


def test_every_make_target_is_in_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())
    for line in re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE):
        phony |= set(line.split())
    described = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert phony == described


def test_readme_links_point_to_files() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_readme_figures_are_those_of_the_results() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "report.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
