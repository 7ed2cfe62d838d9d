"""Which steps overlap, and how, and what the build makes of its two trials."""

from __future__ import annotations

import pytest

from ingot.plugins import overlap
from ingot.plugins.overlap import AHEAD, ALONE, LATE, NONE, Overlap, choose_overlap, linear_overlap
from ingot.plugins.tune import joined


def test_few_rows_overlap_ahead_and_more_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "supported", lambda: True)
    choose_overlap(Overlap(ahead=4, late=64))
    try:
        found = [overlap.overlap(rows) for rows in (1, 4, 5, 64, 65)]
        linears = [linear_overlap(rows) for rows in (4, 5, 65)]
        examples = {overlap.overlap(rows) for rows in overlap.chosen_overlap().examples()}
    finally:
        choose_overlap(Overlap())
    assert found == [AHEAD, AHEAD, LATE, LATE, NONE]
    assert linears == [LATE, LATE, NONE]
    assert examples == {AHEAD, LATE, NONE}


@pytest.mark.parametrize(
    ("few", "more", "found"),
    [
        (ALONE, ALONE, Overlap(ahead=4)),
        (Overlap(ahead=16), ALONE, Overlap(ahead=16, late=16)),
        (Overlap(ahead=16), Overlap(ahead=0, late=64), Overlap(ahead=16, late=64)),
        (Overlap(ahead=16), Overlap(ahead=64), Overlap(ahead=64, late=64)),
        (Overlap(ahead=0, late=16), Overlap(ahead=64), Overlap(ahead=4, late=64)),
    ],
)
def test_two_trials_make_one_choice(few: Overlap, more: Overlap, found: Overlap) -> None:
    assert joined(few, more) == found
