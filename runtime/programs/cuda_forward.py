"""The forward of one step on the GPU: decode steps as CUDA graphs by bucket, mixed steps eager or, where asked for, as graphs
too. Knows batches, no requests.

What computes the logits, kernels or compiled plans, is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ingot.manifest import Limits
from ingot.network.config import ModelConfig
from ingot.plugins.attention.launch import DecodeChoice, decode_choice
from ingot.plugins.attention.prefill import Tiles
from ingot.plugins.attention.step import CudaBatch
from ingot.plugins.overlap import chosen_overlap
from ingot.plugins.sampling.launch import greedy
from ingot.plugins.step_sizes import usual_sizes
from ingot.runtime.plan import Slice
from ingot.runtime.programs.cuda_memory import MemoryPlan, page_bytes, plan_memory
from ingot.runtime.programs.cuda_step import MixedStep, decode_inputs, mixed_step, prompt_tile
from ingot.runtime.programs.cuda_tables import CudaTables
from ingot.runtime.programs.draw_graphs import DrawGraphs
from ingot.runtime.programs.graphs import Captured, ErrorMode, Out, capture, lent
from ingot.runtime.programs.mixed_graphs import MixedGraphs, mixed_buckets
from ingot.runtime.programs.model_step import Model, OpenModel, Sampled
from ingot.runtime.sampler import Draws

GRAPH_MARGIN = 64 << 20  # what the later, smaller graphs add to the first


class CudaForward:
    """Runs steps of `model` over `caches`, a list it fills with one (2, P, K, B, D) per layer: as large as the memory left
    by everything else, or `most_pages`."""

    def __init__(
        self, config: ModelConfig, model: Model, caches: list[Tensor], tables: CudaTables, limits: Limits, kv_dtype: torch.dtype, *,
        share: float, graphs: bool, error_mode: ErrorMode = "global", most_pages: int | None = None, open_model: OpenModel | None = None,
        mixed_tokens: int = 0, drawn_rows: int = 0, decode_sizes: Sequence[int] = (), row_buckets: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """Without `open_model` there are no hidden states, and so no embeddings. `mixed_tokens`: up to which steps with prompts
        are captured too, `drawn_rows`: up to which draws from the logits of decode steps are, `decode_sizes`: rows of captured decode
        steps, without them the usual ones; where `graphs` are at all.
        `row_buckets`: numbers of tokens at which the model takes other kernels, which are loaded now."""
        self._config, self._model, self._caches, self._tables = config, model, caches, tables
        self._open_model, self._row_buckets = open_model, row_buckets
        self._limits, self._kv_dtype, self._error_mode = limits, kv_dtype, error_mode
        most = limits.max_num_seqs
        self._sizes = sorted({min(size, most) for size in decode_sizes or usual_sizes(most)} | {most})
        self._graphs: dict[int, Captured[Sampled]] = {}  # by rows: each reads the tables' inputs
        self._tile = prompt_tile(config)
        self._mixed = MixedGraphs(
            model, tables, self._choice, mixed_buckets(limits, self._tile, mixed_tokens if graphs else 0), tile=self._tile,
            vocab_size=config.vocab_size,
        )  # fmt: skip
        self._draws = DrawGraphs(min(drawn_rows, limits.max_num_seqs) if graphs else 0, tables.device)
        self.memory = self._plan_memory(share, graphs, most_pages)
        caches[:] = self._allocate_caches(self.memory.num_pages)
        # Eager steps' tensors are cut from one block: logits of ever more rows can take memory of their own else. Runs without it
        # ended 4 % over the plan.
        torch.empty(self.memory.activations, dtype=torch.uint8, device=tables.device)
        if graphs:
            for bucket in reversed(self._sizes):  # the smaller ones live in the largest one's memory
                self._capture(bucket)
                if bucket <= self._draws.most_rows:
                    self._draws.capture(bucket, self._graphs[bucket].out, self._captured)
                self._lend(bucket)
            self._mixed.capture(self._captured)
        self._buckets = sorted(self._graphs)

    def bucket_of(self, num_seqs: int) -> int | None:
        """The smallest captured batch that holds them."""
        return next((size for size in self._buckets if size >= num_seqs), None)

    def decode(self, slices: list[Slice], bucket: int) -> Sampled:
        """A captured step; `out`'s first rows are the slices'."""
        self._tables.put_decode(decode_inputs(slices, bucket))
        captured = self._graphs[bucket]
        captured.replay()
        n = len(slices)
        return Sampled(logits=captured.out.logits[:n], tokens=captured.out.tokens[:n])

    def draw(self, bucket: int, draws: Draws) -> Tensor | None:
        """Tokens (R,) int64 from the logits that `decode` has just left; None where that is not captured."""
        return self._draws.run(bucket, draws) if self._draws.takes(bucket, draws) else None

    def mixed(self, step: MixedStep, *, keep_hidden: bool = True) -> Sampled:
        """Logits of step.logit_rows, and tokens of those that sample. A graph keeps no hidden states."""
        bucket = None if keep_hidden else self._mixed.bucket_of(step)
        if bucket is not None:
            return self._mixed.run(step, bucket)
        batch, hidden = self._mixed_batch(step), None
        if keep_hidden and self._open_model is not None:
            logits, hidden = self._open_model(batch)
        else:
            logits = self._model(batch)
        n = len(step.sampling)
        tokens = self._tables.tokens[:n]
        if n:
            greedy(logits[:n], tokens, self._tables.put(step.sampled_rows), self._tables.last_tokens)
        return Sampled(logits=logits[: len(step.logit_rows)], tokens=tokens, hidden=hidden)

    def close(self) -> None:
        self._graphs.clear()
        self._mixed.clear()
        self._draws.clear()
        self._caches.clear()

    def _mixed_batch(self, step: MixedStep) -> CudaBatch:
        """Uploads a mixed step in one copy and takes it apart on the GPU. Where no logits are wanted, the first row's are made:
        no kernel is asked to take no rows."""
        fields = (
            step.inputs.reshape(-1),
            step.query_starts,
            step.lengths,
            step.rows,
            step.logit_rows if len(step.logit_rows) else np.zeros(1, np.int32),
            step.tile_seqs,
            step.tile_starts,
        )
        packed = self._tables.put(np.concatenate(fields))
        inputs, starts, lengths, rows, logit_rows, seqs, firsts = packed.split([len(field) for field in fields])
        ready = self._tables.prepare(inputs.view(4, -1))
        return CudaBatch(
            token_ids=ready.token_ids, positions=ready.positions, slots=ready.slots, page_table=self._tables.page_table,
            query_starts=starts, kv_lengths=lengths, logit_rows=logit_rows, rows=rows, num_decodes=step.num_decodes,
            decode_choice=self._choice(max(step.num_decodes, 1)),
            tiles=Tiles(seqs=seqs, starts=firsts) if len(step.tile_seqs) else None,
        )  # fmt: skip

    def _decode_step(self, bucket: int) -> Sampled:
        inputs = self._tables.decode_inputs(bucket)
        ready = self._tables.prepare(inputs)
        batch = CudaBatch(
            token_ids=ready.token_ids, positions=ready.positions, slots=ready.slots, page_table=self._tables.page_table,
            query_starts=ready.lengths, kv_lengths=ready.lengths, logit_rows=ready.lengths, rows=inputs[0], num_decodes=bucket,
            decode_choice=self._choice(bucket), all_rows=True,
        )  # fmt: skip
        logits = self._model(batch)
        tokens = torch.empty(bucket, dtype=torch.int32, device=self._tables.device)
        greedy(logits, tokens, inputs[0], self._tables.last_tokens)
        return Sampled(logits=logits, tokens=tokens)

    def _capture(self, bucket: int) -> None:
        self._tables.clear_inputs()
        self._graphs[bucket] = self._captured(lambda: self._decode_step(bucket))

    def _lend(self, bucket: int) -> None:
        """Logits that every graph kept for itself would take 9 GiB: 41 sizes up to 1024 rows of 128k."""
        found = self._graphs[bucket]
        logits = lent(found.out.logits)
        self._graphs[bucket] = replace(found, out=replace(found.out, logits=logits))

    def _capture_largest_draw(self) -> None:
        for bucket in [size for size in self._sizes if size <= self._draws.most_rows][-1:]:
            if bucket not in self._graphs:
                self._capture(bucket)
            self._draws.capture(bucket, self._graphs[bucket].out, self._captured)

    def _captured(self, step: Callable[[], Out]) -> Captured[Out]:
        """All graphs share one pool of memory: no two run at once."""
        beside = next(iter(self._graphs.values()), None)
        return capture(step, beside=beside, error_mode=self._error_mode)

    def _choice(self, num_seqs: int) -> DecodeChoice:
        return decode_choice(self._config, num_seqs, self._kv_dtype, self._limits.max_model_len)

    # -- memory

    def _allocate_caches(self, num_pages: int) -> list[Tensor]:
        config, kv = self._config, self._kv_dtype
        shape = (config.num_layers, 2, num_pages, config.num_kv_heads, self._limits.page_size, config.head_dim)
        storage = torch.zeros(shape, dtype=torch.uint8 if kv.itemsize == 1 else kv, device=self._tables.device)
        return list(storage.view(kv).unbind(0))

    def _plan_memory(self, share: float, graphs: bool, most_pages: int | None) -> MemoryPlan:
        """Runs the largest steps once over a pool of one page, to see what they take and to have their kernels loaded."""
        weights = torch.cuda.memory_allocated()
        self._caches[:] = self._allocate_caches(1)
        torch.cuda.reset_peak_memory_stats()
        for count in chosen_overlap().examples():
            self._tables.write_pages(np.zeros((3, count), np.int32))
        for slices in self._rehearsal():
            self.mixed(mixed_step(slices, [], self._tile))
        torch.cuda.synchronize()
        activations = torch.cuda.max_memory_allocated() - weights
        graph_bytes = 0
        if graphs:
            before = torch.cuda.mem_get_info()[0]
            self._capture(self._limits.max_num_seqs)
            self._mixed.capture_largest(self._captured)
            self._capture_largest_draw()
            margin = GRAPH_MARGIN * (1 + bool(self._mixed.buckets) + bool(self._draws.most_rows))
            graph_bytes = max(0, before - torch.cuda.mem_get_info()[0]) + margin
            self._graphs.clear()
            self._mixed.clear()
            self._draws.clear()
        self._caches.clear()
        torch.cuda.empty_cache()
        return plan_memory(
            share=share, weights=weights, activations=activations, graphs=graph_bytes, fixed_pages=self._limits.num_pages,
            bytes_per_page=page_bytes(self._config, self._limits.page_size, self._kv_dtype),
            least_pages=-(-self._limits.max_model_len // self._limits.page_size), most_pages=most_pages,
        )  # fmt: skip

    def _rehearsal(self) -> list[list[Slice]]:
        """Steps in page 0: max_num_batched_tokens in prompts as long as may be, max_num_seqs tokens, then every smaller one
        of the row buckets."""
        limits = self._limits
        most = limits.max_num_batched_tokens
        fewer = [self._prompts(size) for size in self._row_buckets if size < most]
        return [self._prompts(most), [Slice(r, -1, 0, [0], [0], 0, True) for r in range(limits.max_num_seqs)], *fewer]

    def _prompts(self, tokens: int) -> list[Slice]:
        limits = self._limits
        prompts: list[Slice] = []
        while tokens > 0 and len(prompts) < limits.max_num_seqs:
            count = min(tokens, limits.max_model_len)
            prompts.append(Slice(len(prompts), -1, 0, [0] * count, [0], 0, True))
            tokens -= count
        return prompts
