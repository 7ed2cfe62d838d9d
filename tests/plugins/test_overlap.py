"""Which steps overlap, and how."""

from __future__ import annotations

import pytest

from ingot.plugins import overlap
from ingot.plugins.overlap import EARLY, LATE, NONE, Overlap, choose_overlap


def test_few_rows_overlap_early_and_more_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "supported", lambda: True)
    choose_overlap(Overlap(early=4, late=64))
    try:
        found = [overlap.overlap(rows) for rows in (1, 4, 5, 64, 65)]
    finally:
        choose_overlap(Overlap())
    assert found == [EARLY, EARLY, LATE, LATE, NONE]
