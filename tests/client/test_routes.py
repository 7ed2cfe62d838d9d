"""Names to versions, from a file that changes while requests run."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from ingot.client.routes import Routes
from ingot.errors import DeploymentError, UnknownModelError

TEXT = '{"tiny": {"weights": {"1": 90, "2": 10}, "labels": {"canary": 2}}}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "routes.json"
    path.write_text(TEXT)
    return path


def rewrite(path: Path, text: str) -> None:
    path.write_text(text)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


def test_without_a_file_the_server_chooses() -> None:
    routes = Routes(None)
    assert routes.resolve("tiny") == ("tiny", "")
    assert (routes.names("tiny"), routes.main_version("tiny")) == (["tiny"], "")


def test_shares_and_labels(path: Path) -> None:
    routes = Routes(path)
    drawn = Counter(routes.resolve("tiny") for _ in range(2000))
    assert set(drawn) == {("tiny", "1"), ("tiny", "2")}
    assert 100 < drawn["tiny", "2"] < 320  # 200 expected; beyond 8 sigma on either side
    assert routes.resolve("tiny:canary") == ("tiny", "2")
    assert routes.names("tiny") == ["tiny", "tiny:canary"]
    assert routes.main_version("tiny") == "1"
    with pytest.raises(UnknownModelError, match="canary"):
        routes.resolve("tiny:other")


def test_a_label_moves_when_the_file_changes_and_stays_when_it_breaks(path: Path) -> None:
    routes = Routes(path)
    rewrite(path, '{"tiny": {"labels": {"canary": 3}}}')
    assert routes.resolve("tiny:canary") == ("tiny", "3")
    for broken in ("{", '{"tiny": {"label": {}}}', '{"tiny": {"weights": {"1": 0}}}'):
        rewrite(path, broken)
        assert routes.resolve("tiny:canary") == ("tiny", "3")
    path.unlink()
    assert routes.resolve("tiny:canary") == ("tiny", "3")


@pytest.mark.parametrize("text", ["{", '{"tiny": {"weights": {"1": 0}}}', '{"tiny": {"weights": {"one": 1}}}', None])
def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "routes.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DeploymentError):
        Routes(path)
