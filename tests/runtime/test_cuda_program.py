"""The cuda program on a GPU: whatever the batch, graphs, chunks or scheme, every token is the reference's best, or all but."""

from __future__ import annotations

import random
from dataclasses import replace

import msgspec
import pytest
import torch
from torch import Tensor

from ingot.manifest import Limits
from ingot.network.config import ModelConfig
from ingot.network.weights import Scheme, Weight
from ingot.plugins.attention.prefill import PrefillChoice
from ingot.plugins.linear.launch import Choices
from ingot.plugins.random_weights import quantized_weights, random_weights
from ingot.plugins.score import Scorer
from ingot.plugins.variants import Variants
from ingot.runtime.executor import Executor
from ingot.runtime.messages import TokenChunk, TokenRequest
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import StepPlan

pytestmark = pytest.mark.gpu

CONFIG = ModelConfig(
    family="llama", vocab_size=640, hidden_size=256, intermediate_size=512, num_layers=3, num_heads=8, num_kv_heads=2, head_dim=64,
    max_position=512, rms_norm_eps=1e-5, rope_theta=10_000.0, windows=(0, 0, 0), eos_token_ids=(3,),
)  # fmt: skip
GREEDY = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
EAGER, CAPTURED = Variants(), Variants(mixed_tokens=2048)  # steps with prompts


def serve(
    config: ModelConfig, weights: dict[str, Weight[Tensor]], prompts: list[list[int]], params: SamplingParams | list[SamplingParams], *, kv: torch.dtype,
    num_pages: int = 200, graphs: bool = True, max_tokens: int = 64,
    dtype: torch.dtype = torch.bfloat16, variants: Variants = EAGER,
) -> list[list[int]]:  # fmt: skip
    from ingot.runtime.programs.cuda import cuda_program

    limits = Limits(
        max_model_len=256, max_num_seqs=8, max_num_batched_tokens=max_tokens, page_size=16, num_pages=num_pages
    )
    choices = Choices(tuned={}, variants=variants)
    program = cuda_program(config, weights, limits, dtype=dtype, kv_dtype=kv, graphs=graphs, choices=choices)
    executor = Executor(program, limits, config.eos_token_ids)
    asked = params if isinstance(params, list) else [params] * len(prompts)
    for i, (prompt, each) in enumerate(zip(prompts, asked, strict=True)):
        executor.add(TokenRequest(request_id=str(i), token_ids=prompt, params=each))
    texts: list[list[int]] = [[] for _ in prompts]
    while executor.has_work:
        for chunk in executor.step():
            assert isinstance(chunk, TokenChunk), chunk
            texts[int(chunk.request_id)] += chunk.token_ids
    executor.close()
    return texts


def assert_nearly_best(
    config: ModelConfig, weights: dict[str, Weight[Tensor]], prompt: list[int], text: list[int], kv: torch.dtype
) -> None:
    """Teacher-forced: each token's true logit is as near the best as logits of twice plain PyTorch's error allow."""
    told = {}
    for dtype in (torch.float32, torch.bfloat16):
        scorer = Scorer(config, weights, dtype=dtype, kv_dtype=kv if kv.itemsize == 1 else dtype)
        told[dtype] = scorer.logits(prompt + text)[len(prompt) - 1 : -1]
    truth, plain = told[torch.float32], told[torch.bfloat16]
    chosen = truth.gather(1, torch.tensor(text, device=truth.device).unsqueeze(1)).squeeze(1)
    gap, error = truth.max(-1).values - chosen, (plain - truth).abs().max()
    assert gap.max() <= 4 * error, (gap, error)
    assert error < truth.std(), "the check has no teeth"


def make_prompts() -> list[list[int]]:
    shared = [random.randrange(4, 640) for _ in range(70)]
    return [[random.randrange(4, 640) for _ in range(n)] for n in (1, 17, 100, 33)] + [
        [*shared, i] for i in range(4, 12)
    ]


CASES = {
    "none": (CONFIG, Scheme.NONE, torch.bfloat16),
    "kv fp8": (CONFIG, Scheme.NONE, torch.float8_e4m3fn),
    "fp8": (CONFIG, Scheme.FP8, torch.float8_e4m3fn),
    "int8": (CONFIG, Scheme.INT8, torch.bfloat16),
    "int4": (CONFIG, Scheme.INT4, torch.bfloat16),
    "nvfp4": (CONFIG, Scheme.NVFP4, torch.bfloat16),
    "qwen3-like": (replace(CONFIG, qk_norm=True, tie_embeddings=True), Scheme.NONE, torch.bfloat16),
    "qwen2-like": (replace(CONFIG, qkv_bias=True, windows=(0, 40, 0)), Scheme.FP8, torch.bfloat16),
}


@pytest.mark.parametrize("case", CASES)
def test_tokens_are_the_references(case: str) -> None:
    config, scheme, kv = CASES[case]
    weights = random_weights(config, scheme, torch.bfloat16, torch.device("cuda"))
    prompts = make_prompts()
    for prompt, text in zip(prompts, serve(config, weights, prompts, GREEDY, kv=kv), strict=True):
        assert_nearly_best(config, weights, prompt, text, kv)


@pytest.mark.parametrize(("num_pages", "graphs", "max_tokens"), [(40, True, 64), (200, False, 256), (200, True, 16)])
def test_pools_graphs_and_chunks_change_nothing(num_pages: int, graphs: bool, max_tokens: int) -> None:
    weights = random_weights(CONFIG, Scheme.NONE, torch.bfloat16, torch.device("cuda"))
    prompts = make_prompts()
    texts = serve(
        CONFIG, weights, prompts, GREEDY, kv=torch.bfloat16, num_pages=num_pages, graphs=graphs, max_tokens=max_tokens
    )
    for prompt, text in zip(prompts, texts, strict=True):
        assert_nearly_best(CONFIG, weights, prompt, text, torch.bfloat16)


@pytest.mark.parametrize("case", ["none", "fp8", "qwen2-like"])
def test_captured_steps_with_prompts_are_the_references(case: str) -> None:
    """Every prompt twice: the second time most of it is found in the prefix cache."""
    config, scheme, kv = CASES[case]
    weights = random_weights(config, scheme, torch.bfloat16, torch.device("cuda"))
    prompts = make_prompts() * 2
    texts = serve(config, weights, prompts, GREEDY, kv=kv, variants=CAPTURED)
    for prompt, text in zip(prompts, texts, strict=True):
        assert_nearly_best(config, weights, prompt, text, kv)


@pytest.mark.parametrize("kv", [torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("mixed_tokens", [0, 2048])
def test_prompts_that_rotate_in_attention_are_the_references(mixed_tokens: int, kv: torch.dtype) -> None:
    """Eager and captured, beside sequences that decode, which from three on are rotated in attention too."""
    config = replace(CONFIG, num_heads=4, num_kv_heads=1, head_dim=128, qk_norm=True)
    weights = random_weights(config, Scheme.NONE, torch.bfloat16, torch.device("cuda"))
    variants = Variants(prefill=PrefillChoice(cuda=True), rotated_prompts=1, rotating_rows=3, mixed_tokens=mixed_tokens)
    prompts = make_prompts() * 2
    texts = serve(config, weights, prompts, GREEDY, kv=kv, variants=variants)
    for prompt, text in zip(prompts, texts, strict=True):
        assert_nearly_best(config, weights, prompt, text, kv)


def test_captured_steps_with_prompts_write_what_eager_ones_do() -> None:
    """In float32, where the order of a padded product's sums decides no token."""
    weights = random_weights(CONFIG, Scheme.NONE, torch.float32, torch.device("cuda"))
    prompts = make_prompts() * 2
    eager, captured = (
        serve(CONFIG, weights, prompts, GREEDY, kv=torch.float32, dtype=torch.float32, variants=variants)
        for variants in (EAGER, CAPTURED)
    )
    assert captured == eager


def test_seeds_logprobs_and_penalties_run() -> None:
    weights = random_weights(CONFIG, Scheme.NONE, torch.bfloat16, torch.device("cuda"))
    params = SamplingParams(temperature=0.8, top_p=0.9, top_k=50, seed=7, max_tokens=12, ignore_eos=True, logprobs=2, prompt_logprobs=1,
                            presence_penalty=0.5, logit_bias={5: -100.0}, min_tokens=3)  # fmt: skip
    prompts = [[9, 8, 7], list(range(10, 90))]
    first, again = (serve(CONFIG, weights, prompts, params, kv=torch.bfloat16) for _ in range(2))
    assert first == again
    assert all(len(text) == 12 and 5 not in text for text in first)


@pytest.mark.parametrize("more", [{}, {"top_k": 50, "top_p": 0.9}, {"top_p": 0.9}, {"min_p": 0.1, "logprobs": 2}])
def test_captured_draws_are_the_samplers(more: dict[str, float]) -> None:
    """In float32, where nothing that sums in another order moves a token; rows beside them are greedy or have a penalty for a while."""
    weights = random_weights(CONFIG, Scheme.NONE, torch.float32, torch.device("cuda"))
    params = msgspec.structs.replace(SamplingParams(temperature=0.8, seed=7, max_tokens=24, ignore_eos=True), **more)
    prompts = make_prompts()[:6]
    mixture = [
        params,
        GREEDY,
        params,
        msgspec.structs.replace(params, presence_penalty=0.5, max_tokens=5),
        params,
        params,
    ]
    eager, captured = (
        serve(CONFIG, weights, prompts, mixture, kv=torch.float32, dtype=torch.float32, variants=variants)
        for variants in (EAGER, Variants(drawn_rows=64))
    )
    assert captured == eager


@pytest.mark.parametrize("kv", [torch.bfloat16, torch.float8_e4m3fn])
def test_static_scales_are_the_references(kv: torch.dtype) -> None:
    weights = quantized_weights(CONFIG, "fp8", torch.bfloat16, torch.device("cuda"))
    prompts = make_prompts()
    for prompt, text in zip(prompts, serve(CONFIG, weights, prompts, GREEDY, kv=kv), strict=True):
        assert_nearly_best(CONFIG, weights, prompt, text, kv)


def test_a_rounded_lm_head_is_the_references() -> None:
    weights = random_weights(CONFIG, Scheme.FP8, torch.bfloat16, torch.device("cuda"), lm_head=Scheme.FP8)
    prompts = make_prompts()
    texts = serve(CONFIG, weights, prompts, GREEDY, kv=torch.bfloat16)
    for prompt, text in zip(prompts, texts, strict=True):
        assert_nearly_best(CONFIG, weights, prompt, text, torch.bfloat16)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("variants", [EAGER, Variants(mixed_tokens=2048, drawn_rows=64)], ids=["eager", "captured"])
def test_no_launch_waits_for_the_gpu(variants: Variants, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is sampled: PyTorch raises where a call would wait for the device."""
    from ingot.runtime.programs.gpu import GpuProgram

    launch = GpuProgram.launch

    def watched(self: GpuProgram, plan: StepPlan) -> object:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return launch(self, plan)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(GpuProgram, "launch", watched)
    weights = random_weights(CONFIG, Scheme.NONE, torch.bfloat16, torch.device("cuda"))
    plain = SamplingParams(temperature=0.8, seed=7, max_tokens=12, ignore_eos=True, logprobs=2, prompt_logprobs=1)
    for more in (
        {"top_p": 0.9},
        {"top_k": 50, "min_p": 0.1},
        {"presence_penalty": 0.5, "repetition_penalty": 1.1, "logit_bias": {5: -100.0}, "min_tokens": 3},
    ):
        params = msgspec.structs.replace(plain, **more)
        texts = serve(CONFIG, weights, make_prompts(), params, kv=torch.bfloat16, variants=variants)
        assert all(len(text) == 12 for text in texts)


def test_what_a_graph_leaves_is_lent_to_the_next() -> None:
    from ingot.runtime.programs.graphs import capture, lent

    x = torch.arange(1 << 22, dtype=torch.float32, device="cuda")
    first = capture(lambda: x * 2)
    first = replace(first, out=lent(first.out))
    reserved = torch.cuda.memory_reserved()
    second = capture(lambda: x * 3, beside=first)
    assert torch.cuda.memory_reserved() == reserved
    for captured, factor in ((first, 2), (second, 3), (first, 2)):
        captured.out.zero_()
        captured.replay()
        assert torch.equal(captured.out, x * factor)
