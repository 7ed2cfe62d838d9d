"""The stage cache: done work is not done again, half-done work is never taken for done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ingot.builder.stages import StageCache


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    runs: list[str] = []

    def work(part: Path) -> None:
        runs.append("ran")
        (part / "result").write_text("x")

    cache = StageCache(tmp_path / "cache")
    first = cache.run("pack", {"a": 1}, work)
    assert cache.run("pack", {"a": 1}, work) == first
    assert (first / "result").read_text() == "x"
    assert len(runs) == 1
    assert cache.run("pack", {"a": 2}, work) != first
    assert cache.run("quantize", {"a": 1}, work) != first


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)

    def fail(part: Path) -> None:
        (part / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.run("pack", {}, fail)
    assert not list(tmp_path.iterdir())


def test_a_killed_run_is_cleared_and_done_again(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from ingot.builder.stages import StageCache\n"
        "def work(part): (part / 'half').write_text('x'); os.kill(os.getpid(), 9)\n"
        "StageCache(Path(sys.argv[1])).run('pack', {}, work)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == -9
    assert [path.name for path in tmp_path.glob("*/half")] == ["half"]
    done = StageCache(tmp_path).run("pack", {}, lambda part: (part / "whole").touch())
    assert [path.name for path in tmp_path.iterdir()] == [done.name]
    assert sorted(path.name for path in done.iterdir()) == ["stage.json", "whole"]


def test_another_running_build_is_left_alone(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    done = cache.run("pack", {}, lambda part: None)
    theirs = tmp_path / f"{done.name}.part-{os.getppid()}"
    done.rename(theirs)
    cache.run("pack", {}, lambda part: None)
    assert theirs.is_dir()


def test_a_claimed_stage_is_gone_from_the_cache(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    done = cache.run("pack", {}, lambda part: (part / "weights").touch())
    with cache.claim([done]) as (folder,):
        assert (folder / "weights").is_file()
    assert not list(tmp_path.iterdir())
