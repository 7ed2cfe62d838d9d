"""The fake program is honest: it answers as its model does, and it catches plans that break the contract."""

from __future__ import annotations

import pytest
from tests.fakes import FakeProgram, generate_alone, next_token

from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import FEED, Arrival, Slice, StepPlan

PROMPT = [3, 1, 4, 1, 5]


def build() -> FakeProgram:
    return FakeProgram(num_pages=8, page_size=2, max_num_seqs=2)


def arrival(row: int = 0, seq_id: int = 9) -> Arrival:
    return Arrival(row, seq_id, SamplingParams(), 0, PROMPT, [])


def prompt_slice(**changes: object) -> Slice:
    part = Slice(0, 9, 0, PROMPT, [4, 2, 7], 3, True)
    for name, value in changes.items():
        setattr(part, name, value)
    return part


def test_generates_what_its_model_says_chunk_by_chunk_and_fed() -> None:
    program = build()
    plans = [
        StepPlan(0, [Slice(0, 9, 0, PROMPT[:3], [4, 2], 2, False)], [arrival()]),
        StepPlan(1, [Slice(0, 9, 3, PROMPT[3:], [4, 2, 7], 1, True)]),
        StepPlan(2, [Slice(0, 9, 5, [FEED], [4, 2, 7], 0, True)]),
    ]
    tokens = [program.launch(plan).result().tokens[0] for plan in plans]
    alone, reason = generate_alone(
        PROMPT, SamplingParams(max_tokens=2), seed=0, vocab_size=program.vocab_size, max_model_len=99
    )
    assert tokens == [-1, *alone]
    assert reason == "length"


def test_a_page_overwritten_by_another_sequence_changes_the_token() -> None:
    program = build()
    program.launch(StepPlan(0, [prompt_slice()], [arrival()]))
    program.launch(StepPlan(1, [Slice(1, 10, 0, [8], [2], 1, True)], [arrival(row=1, seq_id=10)]))
    tokens = program.launch(StepPlan(2, [Slice(0, 9, 5, [6], [4, 2, 7], 0, True)])).result().tokens
    assert tokens != [next_token([*PROMPT, 6], 0, program.vocab_size)]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (prompt_slice(num_new_pages=2), "do not add up"),
        (prompt_slice(pages=[4, 2, 7, 1], num_new_pages=4), "exactly the positions"),
        (prompt_slice(tokens=[FEED, 1, 4, 1, 5]), "only the last"),
        (prompt_slice(tokens=[]), "without tokens"),
    ],
)
def test_plans_that_break_the_contract_are_caught(part: Slice, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        build().launch(StepPlan(0, [part], [arrival()]))


def test_rows_are_given_once() -> None:
    program = build()
    program.launch(StepPlan(0, [prompt_slice()], [arrival()]))
    with pytest.raises(AssertionError, match="row is taken"):
        program.launch(StepPlan(1, [prompt_slice()], [arrival()]))
    program.launch(StepPlan(2, [prompt_slice()], [arrival()], departures=[0]))
