"""The cpu program against transformers: token-exact for every family, however the work is cut into steps."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import save_file
from tests.builder.onnx.steps import NUM_PAGES, PAGE_SIZE, steps
from tests.checkpoints import CHECKPOINTS, canonical, read, save
from tests.runtime.hand_driver import HandDriver, Request
from torch import Tensor

from ingot.errors import EngineError
from ingot.manifest import Limits, Manifest
from ingot.network.config import ModelConfig
from ingot.network.decoder import decoder, hidden_states
from ingot.network.weights import Weight
from ingot.plugins.attention.cache import allocate_caches
from ingot.plugins.reference_ops import ReferenceOps
from ingot.plugins.score import Scorer
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import StepPlan
from ingot.runtime.programs import load_program
from ingot.runtime.programs.cpu import CpuProgram, load_cpu_program

LIMITS = Limits(max_model_len=160, max_num_seqs=4, max_num_batched_tokens=256, page_size=4, num_pages=300)
GREEDY = SamplingParams(temperature=0.0)


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    model: Any  # transformers'
    config: ModelConfig
    weights: dict[str, Weight[Tensor]]
    prompts: list[list[int]]
    expected: list[list[int]]  # 64 tokens that transformers writes greedily after each prompt

    def program(self, limits: Limits = LIMITS, **kwargs: Any) -> CpuProgram:
        return CpuProgram(self.config, self.weights, limits, **{"dtype": torch.float32} | kwargs)


def checkpoint(name: str, folder: Path) -> Checkpoint:
    model = save(name, folder)
    config, weights = read(folder)
    rng = random.Random(1)
    shared = [rng.randrange(3, 160) for _ in range(19)]
    prompts = [[*shared, 5, 6, 7], [9], [rng.randrange(3, 160) for _ in range(41)], [*shared[:17], 11, 12], shared]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        settings = {"do_sample": False, "max_new_tokens": 64, "eos_token_id": None, "pad_token_id": 0}
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        expected.append(out[0, len(prompt) :].tolist())
    return Checkpoint(folder, model, config, weights, prompts, expected)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    return functools.cache(lambda name: checkpoint(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(params=CHECKPOINTS)
def each(request: pytest.FixtureRequest, made: Callable[[str], Checkpoint]) -> Checkpoint:
    return made(request.param)


@pytest.fixture
def llama(made: Callable[[str], Checkpoint]) -> Checkpoint:
    return made("llama3")


def requests(found: Checkpoint, *, shared: bool = False) -> list[Request]:
    """Prompts 3 and 4 start as prompt 0 does."""
    return [Request(prompt, 64, prefix_of=0 if shared and i >= 3 else None) for i, prompt in enumerate(found.prompts)]


def test_writes_what_transformers_writes_in_a_ragged_batch(each: Checkpoint) -> None:
    texts = HandDriver(each.program()).run(requests(each))
    assert [text.tokens for text in texts] == each.expected


def test_chunked_prompts_and_prefix_hits_change_nothing(each: Checkpoint) -> None:
    texts = HandDriver(each.program(), chunk=7, feed=True).run(requests(each, shared=True))
    assert [text.tokens for text in texts] == each.expected


def test_logits_are_those_of_transformers(each: Checkpoint) -> None:
    text = each.prompts[2] + each.expected[2]
    with torch.inference_mode():
        expected = each.model(torch.tensor([text])).logits[0]
    found = Scorer(each.config, each.weights, dtype=torch.float32, chunk=23).logits(text)
    assert found.shape == (len(text), each.config.vocab_size)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_bfloat16_rounds_as_transformers_does(each: Checkpoint, tmp_path: Path) -> None:
    model = each.model.to(torch.bfloat16)
    text = each.prompts[2]
    with torch.inference_mode():
        theirs = model(torch.tensor([text])).logits[0].float()
    each.model.to(torch.float32)
    rounded = {
        name: Weight(scheme=w.scheme, data=w.data.bfloat16(), bias=None if w.bias is None else w.bias.bfloat16())
        for name, w in each.weights.items()
    }
    truth = Scorer(each.config, rounded, dtype=torch.float32).logits(text)
    ours = Scorer(each.config, rounded, dtype=torch.bfloat16).logits(text)
    assert (ours - truth).square().mean() <= 1.5 * (theirs - truth).square().mean()


def test_rows_that_nobody_reads_end_early_and_change_nothing(each: Checkpoint) -> None:
    """The decoder's logits are those of all hidden states' wanted rows, and it leaves the same cache."""
    made = []
    for whole in (False, True):
        caches = allocate_caches(each.config, NUM_PAGES, PAGE_SIZE, torch.float32)
        ops = RowCounter(each.config, each.weights, caches, dtype=torch.float32)
        for step in steps(each.config.vocab_size):
            if whole:
                hidden = hidden_states(ops, each.config, step)
                logits = ops.logits("lm_head", ops.wanted_rows(hidden, step))
            else:
                logits = decoder(ops, each.config, step)
            assert ops.rows == len(step.token_ids if whole else step.logit_rows)
            made.append((logits, torch.stack(caches)))
    for (logits, cache), (expected, filled) in zip(made[:2], made[2:], strict=True):
        assert (logits - expected).abs().max() <= 1e-6 * expected.abs().max()
        assert torch.equal(cache, filled)


class RowCounter(ReferenceOps):
    """Remembers how many rows the last MLP had."""

    rows = 0

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        self.rows = len(gate_up)
        return super().silu_mul(gate_up)


def test_one_row_and_many_rows_write_the_same(llama: Checkpoint) -> None:
    alone = llama.program(msgspec.structs.replace(LIMITS, max_num_seqs=1))
    texts = HandDriver(alone).run(requests(llama))
    assert [text.tokens for text in texts] == llama.expected


def test_fp8_cache_stays_close_and_never_depends_on_the_batch(llama: Checkpoint) -> None:
    weights = llama.weights | {
        f"layers.{i}.kv_scale": Weight(scheme=llama.weights["embed"].scheme, data=torch.tensor([0.02, 0.01]))
        for i in range(llama.config.num_layers)
    }
    options: dict[str, Any] = {"dtype": torch.float32, "kv_dtype": torch.float8_e4m3fn}
    batched = HandDriver(CpuProgram(llama.config, weights, LIMITS, **options)).run(requests(llama, shared=True))
    one = msgspec.structs.replace(LIMITS, max_num_seqs=1)
    alone = HandDriver(CpuProgram(llama.config, weights, one, **options), chunk=5).run(requests(llama))
    assert [text.tokens for text in batched] == [text.tokens for text in alone]
    exact = Scorer(llama.config, llama.weights, dtype=torch.float32).logits(llama.prompts[2])
    close = Scorer(llama.config, weights, **options).logits(llama.prompts[2])
    assert 0 < (close - exact).norm() < 0.1 * exact.norm()


def test_seeded_text_does_not_depend_on_the_batch(llama: Checkpoint) -> None:
    params = SamplingParams(temperature=0.9, top_p=0.95)
    wanted = [Request(prompt, 24, params, seed=7 + i) for i, prompt in enumerate(llama.prompts)]
    together = HandDriver(llama.program()).run(wanted)
    assert together == HandDriver(llama.program(), chunk=6, feed=True, seed=3).run(wanted)
    assert together[3:] == HandDriver(llama.program()).run(wanted[3:])
    assert together[0] != HandDriver(llama.program()).run([Request(llama.prompts[0], 24, params, seed=99)])[0]


def test_logprobs_are_the_raw_distributions(llama: Checkpoint) -> None:
    params = SamplingParams(temperature=0.7, logprobs=3, prompt_logprobs=2, presence_penalty=1.0)
    prompt = llama.prompts[0]
    text = HandDriver(llama.program(), chunk=5).run([Request(prompt, 9, params), Request([4, 5], 4)])[0]
    whole = prompt + text.tokens
    logits = Scorer(llama.config, llama.weights, dtype=torch.float32).logits(whole[:-1])
    expected = logits.log_softmax(-1)
    entries = text.prompt_logprobs + [entry for entry in text.logprobs if entry is not None]
    assert len(entries) == len(whole) - 1
    for place, (token, entry) in enumerate(zip(whole[1:], entries, strict=True)):
        k = 2 if place + 1 < len(prompt) else 3
        assert entry.logprob == pytest.approx(expected[place, token].item(), abs=1e-4)
        assert entry.rank == 1 + int((expected[place] > expected[place, token]).sum())
        assert [token for token, _ in entry.top] == expected[place].topk(k).indices.tolist()


def test_a_plan_may_only_carry_departures(llama: Checkpoint) -> None:
    result = llama.program().launch(StepPlan(step=0, slices=[], departures=[2])).result()
    assert (result.tokens, result.logprobs, result.prompt_logprobs) == ([], [], [])


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "format_version": 1,
        "name": "small",
        "target": "cpu",
        "sm": [],
        "source": {},
        "recipe": {},
        "dtype": "float32",
        "kv_dtype": "float32",
        "limits": LIMITS,
        "memory": {},
        "quality": None,
        "versions": {},
        "files": {},
        "rebuild": "ingot build small -o small",
        "built_at": "",
    }
    return Manifest(**fields | changes)


def engine(found: Checkpoint, folder: Path) -> Path:
    from safetensors.torch import load_file

    (folder / "weights").mkdir(parents=True)
    (folder / "config.json").write_bytes((found.folder / "config.json").read_bytes())
    tensors = canonical(load_file(found.folder / "model.safetensors"), found.config)
    save_file(tensors, folder / "weights" / "model.safetensors")
    return folder


def test_an_engine_folder_loads_and_runs(llama: Checkpoint, tmp_path: Path) -> None:
    program = load_program(engine(llama, tmp_path / "engine"), manifest())
    assert (program.num_pages, program.page_size, program.max_num_seqs) == (300, 4, 4)
    assert (program.vocab_size, program.steps_ahead) == (160, 0)
    assert HandDriver(program).run(requests(llama)[:1])[0].tokens == llama.expected[0]
    program.close()


def test_the_pool_can_be_of_another_size(llama: Checkpoint, tmp_path: Path) -> None:
    assert load_cpu_program(engine(llama, tmp_path / "engine"), manifest(), num_pages=40).num_pages == 40


def test_foreign_and_damaged_engines_are_refused(llama: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="'abacus'"):
        load_program(tmp_path, manifest(target="abacus"))
    folder = engine(llama, tmp_path / "engine")
    with pytest.raises(EngineError, match="no num_pages"):
        load_program(folder, manifest(limits=msgspec.structs.replace(LIMITS, num_pages=None)))
    with pytest.raises(EngineError, match="'float12'"):
        load_program(folder, manifest(dtype="float12"))
    (folder / "weights" / "model.safetensors").write_bytes(b"\x10" * 64)
    with pytest.raises(EngineError, match="not a sound safetensors file"):
        load_program(folder, manifest())
