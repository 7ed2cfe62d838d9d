"""The simulation of a workload drives the real scheduler to its end, and pads decode steps as graphs do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest

from ingot.manifest import Limits
from ingot.runtime.bench.workload import parse_workload

LIMITS = Limits(max_model_len=256, max_num_seqs=16, max_num_batched_tokens=256, page_size=32)


@pytest.fixture
def simulate(module: Callable[[str], ModuleType]) -> ModuleType:
    return module("simulate")


def test_every_token_is_made_and_takes_its_time(simulate: ModuleType) -> None:
    machine = simulate.MODES["bf16"]
    found = simulate.simulate(machine, parse_workload("64/8x4"), LIMITS)
    assert found.steps == 8
    assert found.preemptions == found.recomputed == 0
    assert round(found.output_tok_s * found.seconds) == 32
    slower = simulate.simulate(replace(machine, gemm=machine.gemm / 2), parse_workload("64/8x4"), LIMITS)
    assert slower.seconds > found.seconds


def test_a_pool_that_is_too_small_costs_steps(simulate: ModuleType) -> None:
    machine = simulate.MODES["bf16"]
    few = replace(machine, pool_gib=8 * 32 * machine.kv_bytes / simulate.GIB)  # eight pages
    found = simulate.simulate(few, parse_workload("64/8x4"), LIMITS)
    assert found.steps > 8
    assert round(found.output_tok_s * found.seconds) == 32


def test_decode_steps_run_as_the_next_graph(simulate: ModuleType) -> None:
    assert [simulate.padded(rows) for rows in (1, 17, 64, 69, 699, 1024)] == [1, 24, 64, 80, 704, 1024]
