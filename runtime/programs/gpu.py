"""A program on a GPU: plans in, tokens out, one step ahead. Knows plans and rows; the forward knows tensors.

Sampled tokens feed the next step on the GPU. Nothing between launch and result waits for the GPU, but for the
vectors of prompts.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from ingot.manifest import Limits
from ingot.network.config import ModelConfig
from ingot.runtime.logprobs import Measured
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import Arrival, Slice, StepPlan
from ingot.runtime.programs.cuda_forward import CudaForward
from ingot.runtime.programs.cuda_step import is_decode, late_pages, mixed_step, prompt_tile
from ingot.runtime.programs.cuda_tables import CudaTables, CudaTicket, Extras
from ingot.runtime.programs.model_step import Sampled
from ingot.runtime.programs.pools import Pools
from ingot.runtime.programs.prompt_scores import PromptScores
from ingot.runtime.sampler import COLDEST, Sampler

logger = logging.getLogger(__name__)


class GpuProgram:
    """Program of runtime/plan.py over a forward and its tables. All its work goes to `stream`, None: torch's current one."""

    steps_ahead = 1

    def __init__(
        self, config: ModelConfig, limits: Limits, tables: CudaTables, forward: CudaForward, *, stream: torch.cuda.Stream | None = None
    ) -> None:  # fmt: skip
        self.page_size, self.max_num_seqs, self.vocab_size = limits.page_size, limits.max_num_seqs, config.vocab_size
        self._tables, self._forward, self._stream = tables, forward, stream
        self._sampler = Sampler(
            max_num_seqs=limits.max_num_seqs,
            vocab_size=config.vocab_size,
            eos_token_ids=config.eos_token_ids,
            device=tables.device,
        )
        self._special: set[int] = set()  # rows that want more than the most likely token
        self._scores = PromptScores()
        self._pools = Pools()
        self._tile = prompt_tile(config)
        self.memory = forward.memory
        self.num_pages = self.memory.num_pages
        logger.info("%s", self.memory)

    def launch(self, plan: StepPlan) -> CudaTicket:
        with torch.inference_mode(), torch.cuda.stream(self._stream) if self._stream else nullcontext():
            return self._launch(plan)

    def close(self) -> None:
        torch.cuda.synchronize()
        self._forward.close()

    def _launch(self, plan: StepPlan) -> CudaTicket:
        for row in plan.departures:
            self._sampler.release(row)
            self._special.discard(row)
            self._scores.release(row)
            self._pools.release(row)
        for arrival in plan.arrivals:
            self._admit(arrival)
        if not plan.slices:
            return self._tables.send(self._tables.tokens[:0], [], 0, Extras(), {})
        scored = self._scores.wanted(plan.slices)
        bucket = self._forward.bucket_of(len(plan.slices))
        pooled = self._pools.wanted(plan.slices)  # a graph keeps no hidden states
        if bucket is not None and not scored and not pooled and is_decode(plan.slices):
            return self._launch_decode(plan.slices, bucket)
        return self._launch_mixed(plan.slices, scored, pooled=bool(pooled))

    def _launch_decode(self, slices: list[Slice], bucket: int) -> CudaTicket:
        self._tables.write_pages(late_pages(slices, inline=True))
        out = self._forward.decode(slices, bucket)
        sampling = [i for i, part in enumerate(slices) if part.samples]
        if len(sampling) < len(slices):
            chosen = self._tables.put(np.array(sampling, np.int32))
            out = Sampled(logits=out.logits[chosen], tokens=out.tokens[chosen])
            bucket = 0  # what is captured draws for every row
        return self._finish(slices, sampling, [], out, {}, bucket)

    def _launch_mixed(self, slices: list[Slice], scored: list[tuple[int, int]], *, pooled: bool) -> CudaTicket:
        self._tables.write_pages(late_pages(slices, inline=False))
        step = mixed_step(slices, scored, self._tile)
        out = self._forward.mixed(step, keep_hidden=pooled)
        vectors: dict[int, bytes] = {}
        if out.hidden is not None and pooled:
            vectors = self._pools.read([slices[i] for i in step.order], step.query_starts.tolist(), out.hidden)
        return self._finish(slices, step.sampling, scored, out, vectors)

    def _finish(
        self, slices: list[Slice], sampling: list[int], scored: list[tuple[int, int]], out: Sampled, vectors: dict[int, bytes],
        bucket: int = 0,
    ) -> CudaTicket:  # fmt: skip
        """Samples what the most likely token did not settle, and sends the tokens to the host. `bucket`: of a captured decode step
        all of whose rows sample."""
        tokens, places, sampled = out.tokens, list[int](), None
        if self._special and any(slices[i].row in self._special for i in sampling):
            tokens, places, sampled = self._sample(slices, sampling, out.logits[: len(sampling)], bucket)
        prompts = self._scores.measure(slices, scored, out.logits[len(sampling) :])
        extras = Extras(places=places, sampled=sampled, prompts=prompts)
        return self._tables.send(tokens, sampling, len(slices), extras, vectors)

    def _sample(
        self, slices: list[Slice], sampling: list[int], logits: Tensor, bucket: int
    ) -> tuple[Tensor, list[int], Measured | None]:
        rows = np.array([slices[i].row for i in sampling], np.int64)
        positions = np.array([slices[i].start + len(slices[i].tokens) for i in sampling], np.int64)
        self._sampler.follow(slices)
        draws = self._sampler.draws(rows, positions) if bucket else None
        tokens = None if draws is None else self._forward.draw(bucket, draws)
        if tokens is None:
            tokens = self._sampler.sample(logits, rows, positions)
        self._tables.last_tokens.index_copy_(0, self._tables.put(rows), tokens.int())
        return tokens.int(), *self._sampler.measure(logits, rows, tokens)

    def _admit(self, arrival: Arrival) -> None:
        self._sampler.admit(arrival)
        self._special.discard(arrival.row)
        self._scores.admit(arrival)
        self._pools.admit(arrival)
        if not is_plain(arrival.params):
            self._special.add(arrival.row)


def is_plain(params: SamplingParams) -> bool:
    """Whether the most likely token of the raw logits is all a row asks for."""
    greedy_only = (
        params.temperature < COLDEST and params.logprobs is None and not params.logit_bias and not params.min_tokens
    )
    penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
    return greedy_only and penalties == (1.0, 0.0, 0.0) and params.grammar is None
