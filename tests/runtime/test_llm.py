"""The offline interface on the fake program: order, stop strings, failures, and nothing left behind."""

from __future__ import annotations

import pytest
from tests.fakes import FakeProgram, generate_alone
from tests.runtime.tokens import EOS, byte_tokenizer

import ingot.runtime
from ingot.errors import RequestError
from ingot.manifest import Limits
from ingot.runtime import SamplingParams
from ingot.runtime.llm import LLM
from ingot.runtime.request import Prompt

LIMITS = Limits(max_model_len=64, max_num_seqs=4, max_num_batched_tokens=64, page_size=4)
TOKENIZER = byte_tokenizer()


def build(steps_ahead: int = 1, num_pages: int = 64) -> LLM:
    program = FakeProgram(
        num_pages=num_pages, page_size=4, max_num_seqs=4, vocab_size=TOKENIZER.vocab_size, steps_ahead=steps_ahead
    )
    return LLM.of(program, TOKENIZER, LIMITS, "fake")


def alone(prompt: str, params: SamplingParams, index: int = 0) -> list[int]:
    return generate_alone(
        TOKENIZER.encode(prompt),
        params,
        seed=(params.seed or 0) + index,
        vocab_size=TOKENIZER.vocab_size,
        max_model_len=LIMITS.max_model_len,
        eos_token_ids=[EOS],
    )[0]


@pytest.mark.parametrize("steps_ahead", [0, 1])
def test_completions_come_in_the_order_of_prompts(steps_ahead: int) -> None:
    prompts = ["the first prompt", "second", "the first prompt, longer"]
    params = [SamplingParams(max_tokens=9, seed=1, n=2), SamplingParams(max_tokens=3, seed=2), SamplingParams(seed=3)]
    with build(steps_ahead) as llm:
        found = llm.generate(prompts, params)
        assert [(one.prompt_index, one.index) for one in found] == [(0, 0), (0, 1), (1, 0), (2, 0)]
        for one in found:
            own = params[one.prompt_index]
            assert one.token_ids == alone(prompts[one.prompt_index], own, one.index)
            assert one.text == TOKENIZER.decode(one.token_ids)
            assert one.usage.completion_tokens == len(one.token_ids)
        assert llm.stats().pages_held == 0


def test_prompts_may_be_text_tokens_or_prompts() -> None:
    with build() as llm:
        params = SamplingParams(max_tokens=4, seed=5)
        texts = [
            llm.generate(prompt, params)[0].text for prompt in ("hi", [TOKENIZER.encode("hi")], [Prompt(text="hi")])
        ]
        assert len(set(texts)) == 1


@pytest.mark.parametrize("steps_ahead", [0, 1])
def test_a_stop_string_ends_the_sequence_in_the_executor(steps_ahead: int) -> None:
    free = SamplingParams(seed=11, ignore_eos=True)
    whole = TOKENIZER.decode(alone("hi", free), skip_special_tokens=True)
    stop = next(letter for letter in whole[5:] if letter.isascii() and letter not in whole[:5])
    with build(steps_ahead) as llm:
        (found,) = llm.generate("hi", SamplingParams(seed=11, ignore_eos=True, stop=(stop,)))
        assert found.text == whole[: whole.index(stop)]
        assert (found.finish_reason, found.stop_reason) == ("stop", stop)
        assert llm.stats().running == 0


def test_a_refused_prompt_leaves_nothing_running() -> None:
    with build(num_pages=4) as llm:  # 4 pages of 4 slots
        with pytest.raises(RequestError, match="a sequence holds 17"):
            llm.generate(["fits", "does not fit into the pool"], SamplingParams(max_tokens=5))
        assert (llm.stats().running, llm.stats().waiting, llm.stats().pages_held) == (0, 0, 0)
        assert len(llm.generate("fits", SamplingParams(max_tokens=5))) == 1


def test_parameters_match_prompts_in_number() -> None:
    with build() as llm, pytest.raises(RequestError, match="2 prompts and 1 sampling"):
        llm.generate(["a", "b"], [SamplingParams()])


def test_closing_closes_the_program() -> None:
    program = FakeProgram(num_pages=4, page_size=4, max_num_seqs=1)
    with LLM.of(program, TOKENIZER, LIMITS, "fake"):
        assert not program.closed
    assert program.closed


def test_the_package_exports_these_names() -> None:
    assert ingot.runtime.__all__ == ["LLM", "Completion", "SamplingParams"]
    assert [getattr(ingot.runtime, name).__name__ for name in ingot.runtime.__all__] == ingot.runtime.__all__
    with pytest.raises(AttributeError, match="nothing"):
        _ = ingot.runtime.nothing
