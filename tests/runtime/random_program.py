"""A Program whose model has no opinion: random logits through the real sampler, so that only a grammar makes sense of a text."""

from __future__ import annotations

import numpy as np
import torch
from tests.fakes import FakeTicket

from ingot.runtime.plan import StepPlan, StepResult
from ingot.runtime.sampler import Sampler


class RandomProgram:
    def __init__(
        self, *, num_pages: int, page_size: int, max_num_seqs: int, vocab_size: int, eos: int, steps_ahead: int = 0
    ) -> None:
        self.num_pages, self.page_size, self.max_num_seqs = num_pages, page_size, max_num_seqs
        self.vocab_size, self.steps_ahead = vocab_size, steps_ahead
        self._sampler = Sampler(max_num_seqs=max_num_seqs, vocab_size=vocab_size, eos_token_ids=[eos])
        self._noise = torch.Generator().manual_seed(0)

    def launch(self, plan: StepPlan) -> FakeTicket:
        for row in plan.departures:
            self._sampler.release(row)
        for arrival in plan.arrivals:
            self._sampler.admit(arrival)
        self._sampler.follow(plan.slices)
        sampling = [i for i, part in enumerate(plan.slices) if part.samples]
        result = StepResult([-1] * len(plan.slices), [None] * len(plan.slices), [None] * len(plan.slices))
        if sampling:
            rows = np.array([plan.slices[i].row for i in sampling])
            positions = np.array([plan.slices[i].start + len(plan.slices[i].tokens) for i in sampling])
            logits = torch.randn((len(sampling), self.vocab_size), generator=self._noise)
            tokens = self._sampler.sample(logits, rows, positions)
            entries = self._sampler.logprobs(logits, rows, tokens)
            for i, token, entry in zip(sampling, tokens.tolist(), entries, strict=True):
                result.tokens[i], result.logprobs[i] = token, entry
        return FakeTicket(result)

    def close(self) -> None:
        pass
