"""docs/security.md and these tests name each other: an attack is covered by tests that exist, or says why not."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROWS = re.findall(r"^\| (\d+) \| .+? \| (.+) \|$", (ROOT / "docs" / "security.md").read_text(), re.MULTILINE)
SOURCES = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
TESTS = set(re.findall(r"def (test_attack_\w+)\(", SOURCES))


def test_every_attack_is_covered_or_says_why_not() -> None:
    assert [int(number) for number, _ in ROWS] == [*range(1, 33)]
    for number, text in ROWS:
        named = set(re.findall(r"`(test_attack_\w+)`", text))
        assert named <= TESTS, named - TESTS
        assert named or text.startswith("Does not apply"), number
        assert all(number.zfill(2) in name.split("_")[2:5] or "10_12" in name for name in named), number
        for file in re.findall(r"`(tests/[\w/]+\.py)`", text):
            assert (ROOT / file).is_file(), file


def test_every_attack_test_is_listed() -> None:
    assert {name for _, text in ROWS for name in re.findall(r"`(test_attack_\w+)`", text)} == TESTS
