"""Step plans as the arrays the GPU reads: exact rows, positions, pages and orders. Needs no GPU."""

from __future__ import annotations

import pytest

from ingot.errors import CapacityError
from ingot.runtime.plan import FEED, Slice
from ingot.runtime.programs import cuda_memory
from ingot.runtime.programs.cuda_step import decode_inputs, is_decode, late_pages, mixed_step

PROMPT = Slice(0, 0, 0, [11, 12, 13], [5], 1, True)
FED = Slice(2, 1, 9, [FEED], [1], 0, True)
GROWN = Slice(1, 2, 32, [7], [1, 4], 1, True)
HIT = Slice(3, 3, 64, [8], [2, 3, 6], 3, False)  # a prompt found in the prefix cache but for its last token


def test_decode_inputs_carry_the_new_page_of_their_own_token() -> None:
    inputs = decode_inputs([FED, GROWN, HIT], 4)
    assert inputs.tolist() == [[2, 1, 3, -1], [9, 32, 64, -1], [-1, 7, 8, -1], [-1, 4, -1, -1]]


def test_pages_that_a_decode_step_cannot_carry_go_before_it() -> None:
    assert late_pages([FED, GROWN], inline=True).size == 0
    assert late_pages([FED, GROWN, HIT], inline=True).tolist() == [[3, 3, 3], [0, 1, 2], [2, 3, 6]]
    assert late_pages([PROMPT, GROWN], inline=False).tolist() == [[0, 1], [0, 1], [5, 4]]


def test_sequences_that_decode_come_first() -> None:
    step = mixed_step([PROMPT, FED, HIT, GROWN], [(0, 2)], 32)
    assert step.order == [1, 2, 3, 0]
    assert step.num_decodes == 3
    assert step.inputs.tolist() == [
        [2, 3, 1, 0, 0, 0],
        [9, 64, 32, 0, 1, 2],
        [FEED, 8, 7, 11, 12, 13],
        [-1] * 6,
    ]
    assert step.query_starts.tolist() == [0, 1, 2, 3, 6]
    assert step.lengths.tolist() == [10, 65, 33, 3]
    assert step.sampling == [1, 3, 0]
    assert step.sampled_rows.tolist() == [2, 1, 0]
    assert step.logit_rows.tolist() == [0, 2, 5, 3, 4]  # the samplers' last rows, then the scored prompt's
    assert (step.tile_seqs.tolist(), step.tile_starts.tolist()) == ([3], [0])


def test_is_decode() -> None:
    assert is_decode([FED, GROWN])
    assert not is_decode([FED, PROMPT])


def test_a_model_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = cuda_memory.GIB
    monkeypatch.setattr(cuda_memory.torch.cuda, "mem_get_info", lambda: (60 * gib, 80 * gib))
    monkeypatch.setattr(cuda_memory.torch.cuda, "memory_reserved", lambda: 18 * gib)

    def plan(weights: int, fixed: int | None = None) -> cuda_memory.MemoryPlan:
        return cuda_memory.plan_memory(
            share=0.9,
            weights=weights,
            activations=gib,
            graphs=gib,
            bytes_per_page=1 << 20,
            least_pages=100,
            fixed_pages=fixed,
        )

    assert plan(16 * gib).num_pages == (72 - 2 - 16 - 1 - 1) * 1024
    assert plan(16 * gib, fixed=7).num_pages == 7
    with pytest.raises(CapacityError, match="100 are needed"):
        plan(68 * gib)
    with pytest.raises(CapacityError, match="99999 are needed"):
        plan(16 * gib, fixed=99_999)
