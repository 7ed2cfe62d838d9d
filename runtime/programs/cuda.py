"""The cuda target's program: decode steps as CUDA graphs, mixed steps eager, tokens fed back on the GPU, one step ahead.

Knows plans and tensors, not why a plan is as it is. Nothing between launch and result waits for the GPU unless a row
asks for more than greedy sampling.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ingot.manifest import Limits
from ingot.network.config import ModelConfig
from ingot.network.decoder import decoder
from ingot.network.ops import Ops
from ingot.network.weights import Weight
from ingot.plugins.attention.launch import Tiles, choose_decode, plan_tiles, prefill_rows
from ingot.plugins.cuda_ops import CudaBatch, CudaOps, check_supported
from ingot.plugins.linear.launch import Choices
from ingot.plugins.sampling.launch import greedy
from ingot.plugins.step.launch import prepare, write_pages
from ingot.runtime.logprobs import token_logprobs
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import Arrival, Slice, StepPlan, StepResult, TokenLogprobs
from ingot.runtime.programs.cuda_memory import MemoryPlan, page_bytes, plan_memory
from ingot.runtime.programs.cuda_step import Ints, MixedStep, buckets, decode_inputs, is_decode, late_pages, mixed_step
from ingot.runtime.sampler import Sampler

RING = 4  # host buffers in turn: at most two steps are on their way
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaTicket:
    """A step on its way. The event is reached once its tokens lie in `tokens`, pinned."""

    event: torch.cuda.Event
    tokens: Tensor  # (R,)
    sampling: list[int]
    num_slices: int
    logprobs: list[TokenLogprobs | None]
    prompt_logprobs: list[list[TokenLogprobs] | None]

    def result(self) -> StepResult:
        self.event.synchronize()
        found = [-1] * self.num_slices
        for i, token in zip(self.sampling, self.tokens.tolist(), strict=True):
            found[i] = token
        return StepResult(tokens=found, logprobs=self.logprobs, prompt_logprobs=self.prompt_logprobs)


@dataclass(frozen=True, slots=True)
class ScoredPrompt:
    """A row whose prompt's log-probabilities are wanted, with that many alternatives."""

    tokens: list[int]
    alternatives: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeGraph:
    """One captured step of `bucket` rows: reads the program's inputs, leaves logits and greedy tokens."""

    graph: torch.cuda.CUDAGraph
    logits: Tensor  # (bucket, V)
    tokens: Tensor  # (bucket,) int32


class CudaProgram:
    """Program of runtime/plan.py over canonical weights that lie on the GPU. `limits.num_pages` None: measured."""

    steps_ahead = 1

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, Weight[Tensor]], limits: Limits, *, dtype: torch.dtype,
        kv_dtype: torch.dtype | None = None, choices: Choices | None = None, memory_share: float = 0.9, graphs: bool = True,
    ) -> None:  # fmt: skip
        check_supported(config)
        self.page_size, self.max_num_seqs, self.vocab_size = limits.page_size, limits.max_num_seqs, config.vocab_size
        self._config, self._limits, self._kv_dtype = config, limits, kv_dtype or dtype
        self._device = weights["embed"].data.device
        self._ops = CudaOps(
            config, weights, [], dtype=dtype, choices=choices, max_seqs=limits.max_num_seqs, max_position=limits.max_model_len
        )
        self._interpreter: Ops[Tensor] = self._ops  # type: ignore[assignment]
        self._sampler = Sampler(
            max_num_seqs=limits.max_num_seqs, vocab_size=config.vocab_size, eos_token_ids=config.eos_token_ids, device=self._device
        )
        self._special: set[int] = set()  # rows that want more than the most likely token
        self._scored: dict[int, ScoredPrompt] = {}
        self._allocate_tables()
        self._graphs: dict[int, DecodeGraph] = {}
        with torch.inference_mode():
            self.memory = self._plan_memory(memory_share, graphs)
            self.num_pages = self.memory.num_pages
            self._ops.caches = self._allocate_caches(self.num_pages)
            if graphs:
                self._capture_all()
        self._buckets = sorted(self._graphs)

    def launch(self, plan: StepPlan) -> CudaTicket:
        for row in plan.departures:
            self._sampler.release(row)
            self._special.discard(row)
            self._scored.pop(row, None)
        for arrival in plan.arrivals:
            self._admit(arrival)
        with torch.inference_mode():
            scored = [(i, n) for i, part in enumerate(plan.slices) if (n := self._num_scored(part))]
            graphed = bool(plan.slices) and not scored and bool(self._buckets) and is_decode(plan.slices)
            if graphed and len(plan.slices) <= self._buckets[-1]:
                return self._launch_decode(plan.slices)
            return self._launch_mixed(plan.slices, scored)

    def close(self) -> None:
        torch.cuda.synchronize()
        self._graphs.clear()
        self._ops.caches.clear()

    # -- steps

    def _launch_decode(self, slices: list[Slice]) -> CudaTicket:
        self._write_pages(late_pages(slices, inline=True))
        bucket = next(size for size in self._buckets if size >= len(slices))
        self._upload(self._inputs, decode_inputs(slices, bucket).reshape(-1))
        captured = self._graphs[bucket]
        captured.graph.replay()
        sampling = [i for i, part in enumerate(slices) if part.samples]
        if len(sampling) == len(slices):
            tokens, logits = captured.tokens[: len(slices)], captured.logits
        else:
            chosen = torch.tensor(sampling, device=self._device)
            tokens, logits = captured.tokens[chosen], captured.logits[chosen]
        return self._finish(slices, sampling, [], logits, tokens)

    def _launch_mixed(self, slices: list[Slice], scored: list[tuple[int, int]]) -> CudaTicket:
        if not slices:
            return self._finish(slices, [], [], torch.empty(0, device=self._device), self._tokens[:0])
        self._write_pages(late_pages(slices, inline=False))
        step = mixed_step(slices, scored, plan_tiles, self._tile)
        batch = self._mixed_batch(step)
        logits = decoder(self._interpreter, self._config, batch)
        n = len(step.sampling)
        tokens = self._tokens[:n]
        if n:
            greedy(logits[:n], tokens, self._put(step.sampled_rows), self._last_tokens)
        return self._finish(slices, step.sampling, scored, logits, tokens)

    def _mixed_batch(self, step: MixedStep) -> CudaBatch:
        """Uploads a mixed step in one copy and takes it apart on the GPU."""
        fields = (step.inputs.reshape(-1), step.query_starts, step.lengths, step.rows, step.logit_rows, step.tile_seqs, step.tile_starts)
        packed = self._put(np.concatenate(fields))
        inputs, starts, lengths, rows, logit_rows, seqs, firsts = packed.split([len(field) for field in fields])
        count = step.inputs.shape[1]
        token_ids, slots, unused = (torch.empty(count, dtype=torch.int32, device=self._device) for _ in range(3))
        inputs = inputs.view(4, count)
        prepare(
            inputs, self._page_table, self._last_tokens, page_size=self.page_size, token_ids=token_ids, slots=slots, lengths=unused
        )
        return CudaBatch(
            token_ids=token_ids, positions=inputs[1], slots=slots, page_table=self._page_table, query_starts=starts, kv_lengths=lengths,
            logit_rows=logit_rows, rows=rows, num_decodes=step.num_decodes, decode_choice=self._choice(max(step.num_decodes, 1)),
            tiles=Tiles(seqs=seqs, starts=firsts) if len(step.tile_seqs) else None,
        )  # fmt: skip

    def _finish(
        self, slices: list[Slice], sampling: list[int], scored: list[tuple[int, int]], logits: Tensor, tokens: Tensor
    ) -> CudaTicket:
        """Samples what greedy did not settle, and sends the tokens to the host."""
        logprobs: list[TokenLogprobs | None] = [None] * len(slices)
        if self._special and any(slices[i].row in self._special for i in sampling):
            tokens = self._sample(slices, sampling, logits[: len(sampling)], logprobs)
        prompts: list[list[TokenLogprobs] | None] = [None] * len(slices)
        first = len(sampling)
        for i, n in scored:
            prompts[i] = self._score(slices[i], logits[first : first + n])
            first += n
        host, event = self._results[self._turn], self._events[self._turn]
        self._turn = (self._turn + 1) % RING
        host[: len(sampling)].copy_(tokens, non_blocking=True)
        event.record()
        return CudaTicket(
            event=event, tokens=host[: len(sampling)], sampling=sampling, num_slices=len(slices), logprobs=logprobs, prompt_logprobs=prompts
        )

    def _sample(self, slices: list[Slice], sampling: list[int], logits: Tensor, logprobs: list[TokenLogprobs | None]) -> Tensor:
        rows = np.array([slices[i].row for i in sampling], np.int64)
        positions = np.array([slices[i].start + len(slices[i].tokens) for i in sampling], np.int64)
        tokens = self._sampler.sample(logits, rows, positions)
        self._last_tokens[self._put(rows.astype(np.int32)).long()] = tokens.int()
        for i, entry in zip(sampling, self._sampler.logprobs(logits, rows, tokens), strict=True):
            logprobs[i] = entry
        return tokens.int()

    def _num_scored(self, part: Slice) -> int:
        """How many of the slice's tokens are followed by a prompt token whose log-probability is wanted."""
        prompt = self._scored.get(part.row)
        return 0 if prompt is None else max(0, min(len(part.tokens), len(prompt.tokens) - 1 - part.start))

    def _score(self, part: Slice, logits: Tensor) -> list[TokenLogprobs]:
        prompt = self._scored[part.row]
        followers = torch.tensor(prompt.tokens[part.start + 1 : part.start + 1 + len(logits)], device=self._device)
        return token_logprobs(logits, followers, [prompt.alternatives] * len(logits))

    def _admit(self, arrival: Arrival) -> None:
        self._sampler.admit(arrival)
        self._special.discard(arrival.row)
        self._scored.pop(arrival.row, None)
        if not is_plain(arrival.params):
            self._special.add(arrival.row)
        if arrival.params.prompt_logprobs is not None:
            self._scored[arrival.row] = ScoredPrompt(arrival.prompt_tokens, arrival.params.prompt_logprobs)

    # -- what lies on the GPU

    def _allocate_tables(self) -> None:
        seqs, device = self.max_num_seqs, self._device
        max_pages = -(-self._limits.max_model_len // self.page_size)
        self._page_table = torch.zeros(seqs, max_pages, dtype=torch.int32, device=device)
        self._last_tokens = torch.zeros(seqs, dtype=torch.int32, device=device)
        self._inputs = torch.full((4 * seqs,), -1, dtype=torch.int32, device=device)
        self._tokens = torch.zeros(seqs, dtype=torch.int32, device=device)
        self._results = [torch.zeros(seqs, dtype=torch.int32).pin_memory() for _ in range(RING)]
        self._events = [torch.cuda.Event() for _ in range(RING)]
        self._turn = 0
        group = self._config.num_heads // self._config.num_kv_heads
        self._tile = prefill_rows(group, self._config.head_dim) // group

    def _allocate_caches(self, num_pages: int) -> list[Tensor]:
        config = self._config
        shape = (config.num_layers, 2, num_pages, config.num_kv_heads, self.page_size, config.head_dim)
        return list(torch.zeros(shape, dtype=torch.uint8 if self._kv_dtype.itemsize == 1 else self._kv_dtype, device=self._device)
                    .view(self._kv_dtype).unbind(0))  # fmt: skip

    def _plan_memory(self, share: float, graphs: bool) -> MemoryPlan:
        """Runs the largest steps once over a tiny pool, to see what they take and to have every kernel loaded."""
        weights = torch.cuda.memory_allocated()
        self._ops.caches = self._allocate_caches(1)
        torch.cuda.reset_peak_memory_stats()
        self._rehearse()
        torch.cuda.synchronize()
        activations = torch.cuda.max_memory_allocated() - weights
        graph_bytes = 0
        if graphs:
            before = torch.cuda.mem_get_info()[0]
            self._capture(self.max_num_seqs)
            graph_bytes = max(0, before - torch.cuda.mem_get_info()[0]) + (64 << 20)
            self._graphs.clear()
        self._ops.caches = []
        torch.cuda.empty_cache()
        per_page = page_bytes(self._config, self.page_size, self._kv_dtype)
        longest = -(-self._limits.max_model_len // self.page_size)
        plan = plan_memory(
            share=share, weights=weights, activations=activations, graphs=graph_bytes, bytes_per_page=per_page,
            least_pages=longest if self._limits.num_pages is None else 0,
        )  # fmt: skip
        if self._limits.num_pages is not None:
            plan = MemoryPlan(**{**{f: getattr(plan, f) for f in plan.__slots__}, "num_pages": self._limits.num_pages})
        logger.info("%s", plan)
        return plan

    def _rehearse(self) -> None:
        """A step of max_num_batched_tokens in prompts no longer than a sequence may be, all in page 0."""
        left, slices = self._limits.max_num_batched_tokens, []
        pages = [0] * self._page_table.shape[1]
        while left > 0 and len(slices) < self.max_num_seqs:
            count = min(left, self._limits.max_model_len)
            used = -(-count // self.page_size)
            slices.append(Slice(len(slices), -1, 0, [0] * count, pages[:used], 0, True))
            left -= count
        self._launch_mixed(slices, []).result()
        self._launch_mixed([Slice(i, -1, 0, [0], [0], 0, True) for i in range(self.max_num_seqs)], []).result()

    def _capture_all(self) -> None:
        """Largest first: the smaller ones then live in its memory."""
        for bucket in reversed(buckets(self.max_num_seqs)):
            self._capture(bucket)

    def _capture(self, bucket: int) -> None:
        self._inputs.fill_(-1)
        self._decode_step(bucket)  # loads the kernels this size takes: a capture must not
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self._graphs.values())).graph.pool() if self._graphs else None
        with torch.cuda.graph(graph, pool=pool):
            logits, tokens = self._decode_step(bucket)
        self._graphs[bucket] = DecodeGraph(graph=graph, logits=logits, tokens=tokens)

    def _decode_step(self, bucket: int) -> tuple[Tensor, Tensor]:
        inputs = self._inputs[: 4 * bucket].view(4, bucket)
        token_ids, slots, lengths, tokens = (torch.empty(bucket, dtype=torch.int32, device=self._device) for _ in range(4))
        prepare(
            inputs, self._page_table, self._last_tokens, page_size=self.page_size, token_ids=token_ids, slots=slots, lengths=lengths
        )
        batch = CudaBatch(
            token_ids=token_ids, positions=inputs[1], slots=slots, page_table=self._page_table, query_starts=lengths,
            kv_lengths=lengths, logit_rows=lengths, rows=inputs[0], num_decodes=bucket, decode_choice=self._choice(bucket), all_rows=True,
        )  # fmt: skip
        logits = decoder(self._interpreter, self._config, batch)
        greedy(logits, tokens, inputs[0], self._last_tokens)
        return logits, tokens

    def _choice(self, num_seqs: int):  # type: ignore[no-untyped-def]
        config = self._config
        return choose_decode(
            num_seqs, config.num_kv_heads, config.num_heads // config.num_kv_heads, config.head_dim, self._kv_dtype, self._limits.max_model_len
        )

    def _write_pages(self, deltas: Ints) -> None:
        if deltas.size:
            write_pages(self._put(deltas), self._page_table)

    def _put(self, values: Ints) -> Tensor:
        """A copy on the GPU, ordered with the steps; the host does not wait."""
        return torch.from_numpy(values).pin_memory().to(self._device, non_blocking=True)

    def _upload(self, target: Tensor, values: Ints) -> None:
        target[: len(values)].copy_(torch.from_numpy(values).pin_memory(), non_blocking=True)


def is_plain(params: SamplingParams) -> bool:
    """Whether the most likely token of the raw logits is all a row asks for."""
    greedy_only = params.temperature == 0 and params.logprobs is None and not params.logit_bias and not params.min_tokens
    penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
    return greedy_only and penalties == (1.0, 0.0, 0.0)
