"""The program that every GPU target shares, over the cuda target's kernels, on host memory: its tokens are the cpu target's."""

from __future__ import annotations

import random
from array import array
from dataclasses import replace

import pytest
import torch
from tests.builder.onnx.random_engine import config
from tests.runtime.hand_driver import HandDriver, Request, Text
from tests.runtime.host_cuda import HostCuda, host_cuda

from ingot.manifest import Limits
from ingot.network.weights import Scheme
from ingot.plugins.linear.launch import Choices
from ingot.plugins.random_weights import random_weights
from ingot.plugins.variants import Variants
from ingot.runtime.embed_stream import NO_TOKENS
from ingot.runtime.executor import Executor
from ingot.runtime.messages import TokenChunk, TokenRequest
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import Program, StepPlan
from ingot.runtime.programs.cpu import CpuProgram
from ingot.runtime.programs.cuda import cuda_program
from ingot.runtime.programs.cuda_tables import CudaTicket
from ingot.runtime.programs.gpu import GpuProgram

__all__ = ["host_cuda"]
# Rows that pad a bucket hold whatever memory held: NumPy, which the interpreter computes with, says where that overflows.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

LIMITS = Limits(max_model_len=64, max_num_seqs=3, max_num_batched_tokens=16, page_size=4, num_pages=60)
RANDOM = SamplingParams(temperature=0.8, top_p=0.9, seed=3, logprobs=1, prompt_logprobs=0)


def requests() -> list[Request]:
    """Prompts of several steps and of one, two with a common start, one that samples and asks for log-probabilities."""
    rng = random.Random(5)
    shared = [rng.randrange(96) for _ in range(9)]
    prompts = [[*shared, 5, 6], [9], [rng.randrange(96) for _ in range(21)], [*shared, 7]]
    found = [Request(prompt, 6, prefix_of=0 if i == 3 else None) for i, prompt in enumerate(prompts)]
    return [*found, Request([3, 1, 4, 1, 5], 5, params=RANDOM, seed=11)]


def texts(program: Program, asked: list[Request] | None = None) -> list[Text]:
    return HandDriver(program, chunk=5, feed=program.steps_ahead > 0).run(requests() if asked is None else asked)


def watch(program: GpuProgram, monkeypatch: pytest.MonkeyPatch) -> list[StepPlan]:
    """The plans it is given from now on."""
    plans, launch = list[StepPlan](), program.launch

    def watched(plan: StepPlan) -> CudaTicket:
        plans.append(plan)
        return launch(plan)

    monkeypatch.setattr(program, "launch", watched)
    return plans


def assert_same(found: list[Text], expected: list[Text]) -> None:
    assert [text.tokens for text in found] == [text.tokens for text in expected]
    scores = [[entry.logprob for entry in text.prompt_logprobs] for text in (found[-1], expected[-1])]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_tokens_are_the_cpu_targets(host_cuda: HostCuda) -> None:
    model = replace(config("qwen3", layers=1), windows=(6,))
    weights = random_weights(model, Scheme.NONE, torch.float32, torch.device("cpu"))
    program = cuda_program(model, weights, LIMITS, dtype=torch.float32)
    found = texts(program)
    assert len(host_cuda.error_modes) == 4, "buckets 1, 2 and 3; 3 once more to see what it takes"
    assert host_cuda.replays >= 5
    assert_same(found, texts(CpuProgram(model, weights, LIMITS, dtype=torch.float32)))


def test_what_steps_take_is_asked_for_at_once(host_cuda: HostCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the allocator has it as one block, whatever the steps' sizes, and the plan holds."""
    taken, empty = 777_777, torch.empty
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: taken)
    monkeypatch.setattr(torch, "empty", lambda *sizes, **how: asked.append(sizes) or empty(*sizes, **how))
    model = config("llama", layers=1)
    weights = random_weights(model, Scheme.NONE, torch.float32, torch.device("cpu"))
    program = cuda_program(model, weights, LIMITS, dtype=torch.float32)
    assert asked.count((taken,)) == 1
    program.close()


def test_a_plan_may_only_say_who_leaves(host_cuda: HostCuda) -> None:
    model = config("llama", layers=1)
    weights = random_weights(model, Scheme.NONE, torch.float32, torch.device("cpu"))
    program = cuda_program(model, weights, LIMITS, dtype=torch.float32)
    texts(program, requests()[:1])
    assert program.launch(StepPlan(0, [], [], [0])).result().tokens == []


def test_captured_steps_with_prompts_are_the_cpu_targets(host_cuda: HostCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    model = replace(config("qwen3", layers=1), windows=(6,))
    weights = random_weights(model, Scheme.NONE, torch.float32, torch.device("cpu"))
    choices = Choices(tuned={}, variants=Variants(mixed_tokens=1000))
    program = cuda_program(model, weights, LIMITS, dtype=torch.float32, choices=choices)
    assert len(host_cuda.error_modes) == 4 + 2 + 1, (
        "16 tokens with and without sequences that decode, and the larger again"
    )
    plans = watch(program, monkeypatch)
    start, _, _, warm, scored = requests()
    asked = [replace(request, max_tokens=2) for request in (start, warm, scored)]
    assert_same(texts(program, asked), texts(CpuProgram(model, weights, LIMITS, dtype=torch.float32), asked))
    assert host_cuda.replays == len(plans) - 1, "all but the step that scores a prompt"


def test_captured_draws_are_the_cpu_targets(host_cuda: HostCuda) -> None:
    """Beside a row with a penalty, which has the whole step drawn eager, and after it."""
    model = replace(config("qwen3", layers=1), windows=(6,))
    weights = random_weights(model, Scheme.NONE, torch.float32, torch.device("cpu"))
    choices = Choices(tuned={}, variants=Variants(drawn_rows=1000))
    asked = [
        Request([9], 5, params=SamplingParams(temperature=0.8, seed=1, logprobs=1), seed=4),
        Request([5], 2, params=SamplingParams(temperature=0.8, presence_penalty=0.5), seed=5),
        Request([7], 6, params=SamplingParams(temperature=1.2, top_k=20, top_p=0.9), seed=6),
    ]
    program = cuda_program(model, weights, LIMITS, dtype=torch.float32, choices=choices)
    assert len(host_cuda.error_modes) == 4 + 4 * 3, "each bucket's three draws, and those of the largest once more"
    found, expected = texts(program, asked), texts(CpuProgram(model, weights, LIMITS, dtype=torch.float32), asked)
    assert [text.tokens for text in found] == [text.tokens for text in expected]
    steps = 8
    assert steps + 1 + 5 <= host_cuda.replays < 2 * steps, "every step, and the draws of those without a penalty"


def vectors(program: Program) -> dict[str, list[float]]:
    """Of prompts of several steps and of one, beside texts that decode."""
    executor = Executor(program, LIMITS, [])
    for i, request in enumerate(requests()):
        executor.add(TokenRequest(request_id=f"text{i}", token_ids=request.prompt, params=SamplingParams(max_tokens=4)))
        for pooling in ("mean", "last"):
            asked = TokenRequest(
                request_id=f"{pooling}{i}", token_ids=request.prompt, params=NO_TOKENS, pooling=pooling
            )
            executor.add(asked)
    found: dict[str, list[float]] = {}
    while executor.has_work:
        for told in executor.step():
            assert isinstance(told, TokenChunk)
            if told.vector is not None:
                found[told.request_id] = array("f", told.vector).tolist()
    assert len(found) == 2 * len(requests())
    return found


def test_vectors_are_the_cpu_targets(host_cuda: HostCuda) -> None:
    model = replace(config("qwen3"), windows=(0, 6))
    weights = random_weights(model, Scheme.NONE, torch.float32, torch.device("cpu"))
    found = vectors(cuda_program(model, weights, LIMITS, dtype=torch.float32))
    assert host_cuda.replays, "texts decode in graphs between the steps that pool"
    for name, vector in vectors(CpuProgram(model, weights, LIMITS, dtype=torch.float32)).items():
        assert found[name] == pytest.approx(vector, abs=1e-4), name
