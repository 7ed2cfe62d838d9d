"""`ingot bench` without a model: workloads, the limit's arithmetic, runs on the fake program, comparisons of lines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes import FakeProgram

from ingot.errors import RecipeError, RequestError
from ingot.manifest import Limits
from ingot.network.config import ModelConfig
from ingot.network.weights import Scheme
from ingot.runtime.bench.breakdown import decode_slices, kind_of, prompt_slices, run_steps
from ingot.runtime.bench.ceilings import Ceilings
from ingot.runtime.bench.chat import Chats
from ingot.runtime.bench.drive import Driver
from ingot.runtime.bench.limit import Costs, limit_seconds, model_costs
from ingot.runtime.bench.lines import append_line, as_lines, command_line, ratios, read_lines, rivals
from ingot.runtime.bench.memory import GIB, MemoryUse
from ingot.runtime.bench.subject import RandomModel, load_random, tuned_choices
from ingot.runtime.bench.workload import Workload, parse_workload
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import Arrival, StepPlan

LIMITS = Limits(max_model_len=64, max_num_seqs=4, max_num_batched_tokens=32, page_size=4)
LLAMA = ModelConfig(
    family="llama", vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_layers=32, num_heads=32,
    num_kv_heads=8, head_dim=128, max_position=131072, rms_norm_eps=1e-5, rope_theta=5e5, windows=(0,) * 32,
)  # fmt: skip


def fake(steps_ahead: int = 0) -> FakeProgram:
    return FakeProgram(num_pages=64, page_size=4, max_num_seqs=4, vocab_size=40, steps_ahead=steps_ahead)


def line(engine: str, rate: float, run: str = "r", **other: Any) -> dict[str, Any]:
    same = {"mode": "bf16", "isl": 128, "osl": 256, "requests": 16}
    return {"run": run, "engine": engine, "output_tok_s": rate, **same, **other}


def test_workloads_are_read_as_they_are_written() -> None:
    assert parse_workload("1024/256x768") == Workload(isl=1024, osl=256, requests=768)
    assert str(parse_workload(" 128/16x1 ")) == "128/16x1"


@pytest.mark.parametrize("text", ["", "128/256", "128x4", "0/5x1", "5/00x1", "5/5x0", "-1/5x1", "a/bxc", "1/2x3x4"])
def test_what_is_no_workload_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="1024/256x768"):
        parse_workload(text)


def test_a_workload_past_the_engines_length_is_refused() -> None:
    parse_workload("60/4x1").check(LIMITS)
    with pytest.raises(RequestError, match="65 tokens; the engine takes 64"):
        parse_workload("60/5x1").check(LIMITS)
    with pytest.raises(RequestError, match="Conversations grow to 70"):
        Chats(conversations=2, turns=3, system=10, question=10, answer=10).check(LIMITS)


def test_prompts_are_the_same_each_time_and_share_no_start() -> None:
    workload = parse_workload("12/4x8")
    prompts = workload.prompts(1000, seed=0)
    assert prompts == workload.prompts(1000, seed=0) != workload.prompts(1000, seed=1)
    assert len({tuple(prompt[:2]) for prompt in prompts}) == 8
    assert {len(prompt) for prompt in prompts} == {12}
    assert min(min(prompt) for prompt in prompts) >= 10
    assert max(max(prompt) for prompt in prompts) < 1000


def test_the_limit_is_the_formula() -> None:
    costs = Costs(
        linear=1000, head=100, weight_bytes=2200, kv_bytes=10, linear_rate="fp8", head_rate="bf16", max_num_seqs=4, pool_tokens=1000
    )  # fmt: skip
    ceilings = Ceilings(copy=1e4, gemm={"bf16": 1e5, "fp8": 2e5})
    found = limit_seconds(parse_workload("5/3x8"), costs, ceilings)
    prefill = 2 * 1000 * 5 * 8 / 2e5 + 2 * 100 * 8 / 1e5
    decode = max(2200 / 1e4, 4 * (2 * 1000 / 2e5 + 2 * 100 / 1e5)) * 2 * 8 / 4
    kv = 10 * 8 * ((5 + 1) + (5 + 2)) / 1e4
    assert found == pytest.approx(prefill + decode + kv)


@pytest.mark.parametrize(
    ("workload", "scheme", "kv_itemsize", "tok_s"),
    [
        ("128/256x1", Scheme.NONE, 2, 268),
        ("128/512x1024", Scheme.FP8, 1, 54_600),
        ("2048/128x384", Scheme.NONE, 2, 2_630),
    ],
)
def test_the_limit_of_an_8b_model_is_what_was_worked_out_by_hand(
    workload: str, scheme: Scheme, kv_itemsize: int, tok_s: float
) -> None:
    """Of 4.3 TB/s, 785 TFLOP/s in bf16 and 1480 in FP8; within what a hand's rounding leaves."""
    asked = parse_workload(workload)
    costs = model_costs(
        LLAMA, scheme, itemsize=2, rate="bf16", kv_itemsize=kv_itemsize, max_num_seqs=1024, pool_tokens=10**7, widened=False
    )  # fmt: skip
    seconds = limit_seconds(asked, costs, Ceilings(copy=4.3e12, gemm={"bf16": 785e12, "fp8": 1480e12}))
    assert asked.requests * asked.osl / seconds == pytest.approx(tok_s, rel=0.08)


def test_a_program_that_widens_its_weights_is_held_to_their_width() -> None:
    words = {"itemsize": 4, "rate": "fp32", "kv_itemsize": 4, "max_num_seqs": 1, "pool_tokens": 100}
    wide = model_costs(LLAMA, Scheme.FP8, **words, widened=True)  # type: ignore[arg-type]
    narrow = model_costs(LLAMA, Scheme.FP8, **words, widened=False)  # type: ignore[arg-type]
    assert wide.weight_bytes == 4 * (wide.linear + wide.head)
    assert wide.linear_rate == "fp32"
    assert narrow.weight_bytes == narrow.linear + 4 * narrow.head
    assert narrow.linear_rate == "fp8"


@pytest.mark.parametrize("steps_ahead", [0, 1])
def test_a_driver_counts_tokens_and_steps(steps_ahead: int) -> None:
    driver = Driver(fake(steps_ahead), LIMITS)
    told: list[int] = []
    timing, outputs = driver.generate([[1, 2, 3], [4, 5]], 6, advance=told.append)
    assert [len(output) for output in outputs] == [6, 6]
    assert timing.output_tokens == sum(told) == 12
    assert timing.clock.prompt_steps == 1
    assert timing.clock.decode_steps >= 5
    assert 0 < timing.clock.launch + timing.clock.wait < timing.seconds
    assert timing.line()["schedule_and_settle"] >= 0


def test_a_driver_finds_prompts_of_before_only_where_asked_to() -> None:
    driver, prompt = Driver(fake(), LIMITS), list(range(20))
    driver.generate([prompt, prompt], 4, cached=False)
    driver.generate([prompt], 4, cached=False)
    assert driver.stats().prefix_hits == 0
    driver.generate([prompt], 4)
    driver.generate([prompt], 4)
    assert driver.stats().prefix_hits >= 16


def test_a_driver_passes_refusals_on() -> None:
    with pytest.raises(RequestError):
        Driver(fake(), LIMITS).generate([list(range(70))], 4)


@pytest.mark.parametrize("steps_ahead", [0, 1, 2])
def test_steps_made_by_hand_keep_the_programs_contract(steps_ahead: int) -> None:
    """The fake program asserts it: pages within the pool, rows of its own, every slot written once."""
    workload = parse_workload("9/6x3")
    for slices in (decode_slices(fake(), workload), prompt_slices(fake(), workload, 32)):
        program = fake(steps_ahead)
        greedy = SamplingParams(temperature=0.0)
        prompts = [[1] * (part.start + len(part.tokens)) for part in slices]
        arrivals = [
            Arrival(part.row, part.seq_id, greedy, 0, prompt, []) for part, prompt in zip(slices, prompts, strict=True)
        ]
        assert len(slices) == 3
        for part in slices:
            part.start, part.tokens = 0, [1] * (part.start + len(part.tokens))
        program.launch(StepPlan(0, slices, arrivals)).result()
        for part in slices:
            part.num_new_pages = 0
        assert len(run_steps(program, slices, 5)) == 5


def test_a_prompt_step_is_no_larger_than_a_step_may_be() -> None:
    assert sum(len(part.tokens) for part in prompt_slices(fake(), parse_workload("10/6x9"), 32)) == 30
    (part,) = prompt_slices(fake(), parse_workload("50/6x9"), 32)
    assert len(part.tokens) == 32


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("paged_decode", "attention"), ("prefill_kernel", "attention"), ("combine_kernel", "attention"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", "gemm"), ("skinny_int4", "gemm"), ("scaled_gemm_kernel", "gemm"),
        ("aten::mm", "gemm"), ("aten::scaled_dot_product_attention", "attention"), ("add_rms_norm_kernel", "rows"),
        ("silu_mul_quantize_kernel", "rows"), ("silu_mul_kernel", "rows"), ("rope_kernel", "rows"), ("quantize_kernel", "rows"),
        ("paged_prefill", "attention"), ("tiles_kernel", "attention"), ("skinny", "gemm"), ("argmax_join_kernel", "sampling"), ("Memcpy HtoD (Pinned -> Device)", "other"),
    ],
)  # fmt: skip
def test_kernels_are_known_by_their_names(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


def test_random_weights_run_the_kernels_that_a_build_would_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    from ingot.plugins import tune
    from ingot.plugins.linear.launch import Choices
    from ingot.plugins.random_weights import random_weights

    found, asked = Choices(tuned={}), list[Any]()

    def tune_engine(config: ModelConfig, weights: Any, rows: list[int], *dtypes: torch.dtype, **sizes: int) -> Choices:
        asked.extend((sorted(weights) == sorted(own), rows, dtypes, sizes))
        return found

    monkeypatch.setattr(tune, "tune_engine", tune_engine)
    small = replace(
        LLAMA, vocab_size=64, hidden_size=64, intermediate_size=64, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=32, windows=(0,)
    )  # fmt: skip
    own = random_weights(small, Scheme.NONE, torch.bfloat16, torch.device("cpu"))
    assert tuned_choices(small, own, LIMITS, torch.bfloat16, torch.float8_e4m3fn) is found
    assert asked == [
        True, [1, 2, 4, 8, 16, 32], (torch.bfloat16, torch.float8_e4m3fn), {"page": 4, "tokens": 32, "seqs": LIMITS.max_num_seqs}
    ]  # fmt: skip


@pytest.mark.parametrize("asked", [{"mixed_tokens": 64}, {"drawn_rows": 1}])
def test_cuda_graphs_are_refused_without_a_gpu(
    asked: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="CUDA graphs"):
        load_random(RandomModel(config=tmp_path, **asked))


def test_memory_is_judged_against_the_planned_share() -> None:
    total = 140 * GIB
    assert MemoryUse(used=int(total * 0.88), total=total).within
    assert not MemoryUse(used=int(total * 0.86), total=total).within
    assert not MemoryUse(used=int(total * 0.93), total=total).within
    assert "97.8% of 90%" in str(MemoryUse(used=int(total * 0.88), total=total))
    assert MemoryUse(used=int(total * 0.9), total=total).line()["within"] is True


def test_results_are_appended_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    append_line(path, line("ingot", 120.0, share=0.8))
    append_line(path, {"benchmark": "chat", "run": "r", "engine": "ingot"})
    append_line(path, line("vllm-0.26.0", 100.0, limit_tok_s=None))
    ours, theirs = read_lines(path)
    assert (ours.engine, theirs.engine, theirs.limit_tok_s) == ("ingot", "vllm-0.26.0", None)
    (found,) = ratios([ours], rivals([ours, theirs], "r"))
    assert found.ratio == pytest.approx(1.2)
    path.write_text("no json\n")
    with pytest.raises(RequestError, match="does not hold results"):
        read_lines(path)
    path.write_text(json.dumps(line("ingot", "fast")))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="does not hold results"):
        read_lines(path)


def test_runs_are_not_compared_with_each_other_unless_asked() -> None:
    lines = as_lines([line("ingot", 1.0), line("vllm-0.26.0", 2.0, run="other")])
    with pytest.raises(RequestError, match="Runs in the file: other"):
        rivals(lines, "r")
    assert rivals(lines, "other") == lines[1:]
    assert not ratios(lines, as_lines([line("vllm-0.26.0", 2.0, mode="fp8kv")]))


def test_our_newest_line_is_compared_with_a_rivals_fastest() -> None:
    ways = [line("vllm-0.26.0", 2.0), line("vllm-0.26.0", 9.0, quant="fp8 checkpoint"), line("vllm-0.26.0", 3.0)]
    lines = as_lines([line("ingot", 1.0), line("ingot", 3.0), *ways, line("vllm-0.26.0", 99.0, run="other")])
    (found,) = ratios(lines, rivals(lines, "r"))
    assert found.ratio == pytest.approx(3 / 9)
    assert found.theirs.quant == "fp8 checkpoint"


def test_every_rival_has_its_own_ratio() -> None:
    lines = as_lines([line("ingot", 4.0), line("vllm-0.26.0", 2.0), line("sglang-1", 8.0)])
    found = {one.theirs.engine: one.ratio for one in ratios(lines, rivals(lines, "r"))}
    assert found == {"vllm-0.26.0": 2.0, "sglang-1": 0.5}


def test_a_command_is_kept_without_where_its_results_went() -> None:
    words = ["bench", "chat", "engine", "--output", "a b.jsonl", "--turns", "3"]
    assert command_line(words) == "ingot bench chat engine --turns 3"
    assert command_line(["bench", "--output=x y", "e"]) == "ingot bench e"
