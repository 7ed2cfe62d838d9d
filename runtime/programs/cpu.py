"""The cpu target's program: reference ops, eager, one step at a time. Knows plans and tensors, not why a plan is as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ingot.errors import EngineError
from ingot.manifest import Limits, Manifest
from ingot.network.config import ModelConfig
from ingot.network.decoder import decoder, hidden_states
from ingot.network.weights import Weight
from ingot.plugins.attention.cache import allocate_caches
from ingot.plugins.dtypes import torch_dtype
from ingot.plugins.load import read_weights
from ingot.plugins.reference_ops import ReferenceOps
from ingot.runtime.plan import Slice, StepPlan, StepResult, TokenLogprobs
from ingot.runtime.programs.batch import Layout, RowTables
from ingot.runtime.programs.pools import Pools
from ingot.runtime.programs.prompt_scores import PromptScores
from ingot.runtime.programs.tensors import read_tensors
from ingot.runtime.sampler import Sampler

# Below this hidden size an operation is over before a second thread has begun: one thread is up to twice as fast as two.
SMALL = 1024


@dataclass(frozen=True, slots=True)
class Settled:
    """A ticket whose step is over: on a CPU there is nothing to wait for."""

    done: StepResult

    def result(self) -> StepResult:
        return self.done


class CpuProgram:
    """Program of runtime/plan.py over canonical weights. `limits.num_pages` must be set."""

    steps_ahead = 0

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Weight[Tensor]],
        limits: Limits,
        *,
        dtype: torch.dtype,
        kv_dtype: torch.dtype | None = None,
    ) -> None:
        if limits.num_pages is None:
            raise EngineError("A cpu engine's limits name no num_pages.", mend="Build it again.")
        self.num_pages = limits.num_pages
        self.page_size = limits.page_size
        self.max_num_seqs = limits.max_num_seqs
        self.vocab_size = config.vocab_size
        self._config = config
        with torch.inference_mode():
            caches = allocate_caches(config, limits.num_pages, limits.page_size, kv_dtype or dtype)
            self._ops = ReferenceOps(config, weights, caches, dtype=dtype)
        self._tables = RowTables(limits)
        self._sampler = Sampler(
            max_num_seqs=limits.max_num_seqs, vocab_size=config.vocab_size, eos_token_ids=config.eos_token_ids
        )
        self._scores = PromptScores()
        self._pools = Pools()

    def launch(self, plan: StepPlan) -> Settled:
        for row in plan.departures:
            self._sampler.release(row)
            self._scores.release(row)
            self._pools.release(row)
        for arrival in plan.arrivals:
            self._sampler.admit(arrival)
            self._scores.admit(arrival)
            self._pools.admit(arrival)
        if not plan.slices:
            return Settled(StepResult(tokens=[], logprobs=[], prompt_logprobs=[]))
        with torch.inference_mode():
            return Settled(self._run(plan.slices))

    def close(self) -> None:
        self._ops.caches.clear()

    def _run(self, slices: list[Slice]) -> StepResult:
        scored = self._scores.wanted(slices)
        layout = self._tables.layout(slices, scored)
        self._sampler.follow(slices)
        logits, vectors = self._logits_and_vectors(slices, layout)
        tokens, logprobs = self._sample(logits[: len(layout.sampling)], layout, len(slices))
        prompt_logprobs = self._scores.read(slices, scored, logits[len(layout.sampling) :])
        return StepResult(tokens=tokens, logprobs=logprobs, prompt_logprobs=prompt_logprobs, vectors=vectors)

    def _logits_and_vectors(self, slices: list[Slice], layout: Layout) -> tuple[Tensor, dict[int, bytes]]:
        """Every token goes through the whole network only where vectors are made of it."""
        if not self._pools.wanted(slices):
            return decoder(self._ops, self._config, layout.batch), {}
        hidden = hidden_states(self._ops, self._config, layout.batch)
        vectors = self._pools.read(slices, layout.batch.query_starts.tolist(), hidden)
        return self._ops.logits("lm_head", self._ops.wanted_rows(hidden, layout.batch)), vectors

    def _sample(self, logits: Tensor, layout: Layout, num_slices: int) -> tuple[list[int], list[TokenLogprobs | None]]:
        """By slice; -1 and None for those that do not sample."""
        tokens, logprobs = [-1] * num_slices, [None] * num_slices
        if not layout.sampling:
            return tokens, list(logprobs)
        sampled = self._sampler.sample(logits, layout.rows, layout.positions)
        self._tables.remember(layout.rows, sampled)
        entries = self._sampler.logprobs(logits, layout.rows, sampled)
        found: list[TokenLogprobs | None] = list(logprobs)
        for i, token, entry in zip(layout.sampling, sampled.tolist(), entries, strict=True):
            tokens[i], found[i] = token, entry
        return tokens, found


def load_cpu_program(
    engine: Path, manifest: Manifest, *, num_pages: int | None = None, threads: int | None = None
) -> CpuProgram:
    """Maps the engine's weights and widens them to the engine's dtype. `num_pages` overrides the built pool's size,
    `threads` PyTorch's number of threads. Raises EngineError where files do not make the model the manifest promises."""
    config = ModelConfig.from_hf(json.loads((engine / "config.json").read_text()))
    if threads is None and config.hidden_size < SMALL:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)
    limits = manifest.limits
    if num_pages is not None:
        limits = Limits(
            max_model_len=limits.max_model_len,
            max_num_seqs=limits.max_num_seqs,
            max_num_batched_tokens=limits.max_num_batched_tokens,
            page_size=limits.page_size,
            num_pages=num_pages,
        )
    return CpuProgram(
        config,
        read_weights(read_tensors(engine / "weights"), config),
        limits,
        dtype=torch_dtype(manifest.dtype),
        kv_dtype=torch_dtype(manifest.kv_dtype),
    )
