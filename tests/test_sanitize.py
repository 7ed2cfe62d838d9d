"""What runs the kernels under compute-sanitizer, with a stand-in for it: its verdicts, and that its tests exist."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def sanitize(path: Path, *tools: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests" / "sanitize.py"), *tools]
    env = os.environ | {"PATH": f"{path}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """Clean but for racecheck."""
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(
        "#!/bin/sh\necho '86 passed in 3s'\n"
        'case "$*" in *racecheck*) echo "========= RACECHECK SUMMARY: 2 hazards"; exit 9;; esac\n'
        "echo '========= ERROR SUMMARY: 0 errors'\n"
    )
    tool.chmod(0o755)
    return tmp_path


def test_verdicts_are_told_apart(fake: Path) -> None:
    done = sanitize(fake)
    assert done.returncode == 1
    verdicts = {one["tool"]: one for one in json.loads(done.stdout.splitlines()[-1])["verdicts"]}
    assert {tool: one["verdict"] for tool, one in verdicts.items()} == {
        "memcheck": "clean", "racecheck": "found", "initcheck": "clean",
    }  # fmt: skip
    assert verdicts["racecheck"]["summary"] == ["RACECHECK SUMMARY: 2 hazards"]
    assert verdicts["memcheck"]["tests"] == ["86 passed in 3s"]
    assert sanitize(fake, "memcheck").returncode == 0


def test_files_of_tests_stand_for_all(fake: Path) -> None:
    (fake / "compute-sanitizer").write_text('#!/bin/sh\necho "asked: $*"\necho "1 passed in 1s"\n')
    done = sanitize(fake, "racecheck", "tests/plugins/test_tune.py")
    assert done.returncode == 0, done.stdout
    (asked,) = (text for text in done.stdout.splitlines() if text.startswith("asked: ") and "pytest" in text)
    assert "tests/plugins/test_tune.py" in asked
    assert "tests/plugins " not in asked
    assert "not gated" in asked


def test_a_tool_that_ran_no_test_has_not_shown_anything(fake: Path) -> None:
    (fake / "compute-sanitizer").write_text("#!/bin/sh\nexit 0\n")
    done = sanitize(fake, "memcheck")
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1])["verdicts"][0]["verdict"] == "failed"


def test_an_unknown_tool_is_refused(fake: Path) -> None:
    done = sanitize(fake, "leakcheck")
    assert done.returncode == 1
    assert "No such tool or test: leakcheck" in done.stderr
