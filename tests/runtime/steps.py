"""A scheduler driven by hand: requests in, plans as plain tuples, answers of one's own choice."""

from __future__ import annotations

from typing import Any

from ingot.manifest import Limits
from ingot.runtime.messages import TokenChunk, TokenRequest
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import StepPlan, StepResult
from ingot.runtime.scheduler import Scheduler

EOS = 2


def build(
    *, pages: int = 32, seqs: int = 4, budget: int = 16, page_size: int = 4, max_len: int = 64, **more: Any
) -> Scheduler:
    limits = Limits(max_model_len=max_len, max_num_seqs=seqs, max_num_batched_tokens=budget, page_size=page_size)
    return Scheduler(limits, pages, eos_token_ids=[EOS], **more)


def ask(name: str, prompt: list[int], *, salt: str | None = None, priority: int = 0, **params: Any) -> TokenRequest:
    return TokenRequest(
        request_id=name, token_ids=prompt, params=SamplingParams(**params), cache_salt=salt, priority=priority
    )


def decide(scheduler: Scheduler) -> StepPlan:
    plan = scheduler.schedule()
    assert plan is not None
    return plan


def shape(plan: StepPlan | None) -> list[tuple[int, int, list[int], list[int], int, bool]]:
    """(row, start, tokens, pages, new pages, samples) of each slice; copied, for the lists go on changing."""
    assert plan is not None
    return [(p.row, p.start, list(p.tokens), list(p.pages), p.num_new_pages, p.samples) for p in plan.slices]


def answer(plan: StepPlan, *tokens: int) -> StepResult:
    """One token per slice that samples, 9 where none is given."""
    given = iter(tokens)
    sampled = [next(given, 9) if part.samples else -1 for part in plan.slices]
    return StepResult(sampled, [None] * len(sampled), [None] * len(sampled))


def step(scheduler: Scheduler, *tokens: int) -> list[TokenChunk]:
    plan = decide(scheduler)
    return scheduler.settle(plan, answer(plan, *tokens))


def ends(chunks: list[TokenChunk]) -> list[tuple[str, list[int], str | None]]:
    return [(chunk.request_id, chunk.token_ids, chunk.finish_reason) for chunk in chunks]
