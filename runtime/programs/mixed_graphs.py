"""Steps with prompts as CUDA graphs, by tokens and by how many sequences decode beside them. Knows steps as arrays, no plans.

A step is padded to its bucket: padding tokens are written nowhere, spare sequences and tiles compute nothing, and decode
attention is told by a length of 0 which of its sequences are not its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ingot.manifest import Limits
from ingot.plugins.attention.launch import DecodeChoice
from ingot.plugins.attention.prefill import Tiles
from ingot.plugins.attention.step import CudaBatch
from ingot.plugins.sampling.launch import greedy
from ingot.runtime.programs.cuda_step import Ints, MixedStep, mixed_step
from ingot.runtime.programs.cuda_tables import CudaTables
from ingot.runtime.programs.graphs import Captured
from ingot.runtime.programs.model_step import Model, Sampled

TOKENS = (16, 32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048)  # of a step; larger ones hide the host's time
FEW, MOST = 16, 256  # sequences that decode: with none, few, or as many as may be
PROMPTS = 8  # at least, where a step's tiles would leave room for fewer
PAST = 1 << 30  # where tiles start that nothing is left for

Capture = Callable[[Callable[[], Sampled]], Captured[Sampled]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """What a captured step has room for."""

    tokens: int
    decodes: int
    prompts: int
    seqs: int
    tiles: int

    def holds(self, step: MixedStep) -> bool:
        """No log-probabilities of prompts: their rows are as many as tokens."""
        seqs = len(step.rows)
        fits = step.num_decodes <= self.decodes and seqs - step.num_decodes <= self.prompts and seqs <= self.seqs
        small = step.inputs.shape[1] <= self.tokens and len(step.tile_seqs) <= self.tiles
        return fits and small and len(step.logit_rows) == len(step.sampling)


def mixed_buckets(limits: Limits, tile: int, most_tokens: int) -> list[Bucket]:
    """Those of at most `most_tokens`, in the order they are to be tried. `tile`: tokens of a prefill tile."""
    found = []
    for tokens in (size for size in TOKENS if size <= min(most_tokens, limits.max_num_batched_tokens)):
        prompts = min(max(PROMPTS, tokens // tile), limits.max_num_seqs)
        most = min(tokens, limits.max_num_seqs, MOST)
        found += [
            Bucket(
                tokens=tokens, decodes=decodes, prompts=prompts, seqs=min(decodes + prompts, limits.max_num_seqs),
                tiles=tokens // tile + prompts,
            )
            for decodes in sorted({0, min(FEW, most), most})
        ]  # fmt: skip
    return found


def padded(step: MixedStep, bucket: Bucket) -> list[Ints]:
    """A step's arrays as long as the bucket's: inputs (4 * tokens,), query starts, lengths, lengths of those that decode, rows,
    logit rows, sampled rows, tile sequences, tile starts."""
    inputs = np.full((4, bucket.tokens), -1, np.int32)
    inputs[:, : step.inputs.shape[1]] = step.inputs
    return [
        inputs.reshape(-1),
        extended(step.query_starts, bucket.seqs + 1, step.query_starts[-1]),
        extended(step.lengths, bucket.seqs, 0),
        extended(step.lengths[: step.num_decodes], bucket.decodes, 0),
        extended(step.rows, bucket.seqs, 0),
        extended(step.logit_rows, bucket.seqs, 0),
        extended(step.sampled_rows, bucket.seqs, -1),
        extended(step.tile_seqs, bucket.tiles, 0),
        extended(step.tile_starts, bucket.tiles, PAST),
    ]


def extended(values: Ints, size: int, rest: int) -> Ints:
    out = np.full(size, rest, np.int32)
    out[: len(values)] = values
    return out


class MixedGraphs:
    """Captured steps of `model`, which all read one buffer and leave their logits in another."""

    def __init__(
        self, model: Model, tables: CudaTables, choose: Callable[[int], DecodeChoice], buckets: list[Bucket], *, tile: int, vocab_size: int
    ) -> None:  # fmt: skip
        """`choose`: how so many sequences decode."""
        self._model, self._tables, self._choose, self.buckets = model, tables, choose, buckets
        empty = mixed_step([], [], tile)
        self._idle = {bucket: padded(empty, bucket) for bucket in buckets}
        size = max((sum(map(len, arrays)) for arrays in self._idle.values()), default=0)
        rows = max((bucket.seqs for bucket in buckets), default=0)
        self._inputs = torch.zeros(size, dtype=torch.int32, device=tables.device)
        # Logits that every graph kept for itself would take as much memory as all of them together.
        self._logits = torch.empty(rows, vocab_size, dtype=torch.float32, device=tables.device)
        self._tokens = torch.empty(rows, dtype=torch.int32, device=tables.device)
        self._graphs: dict[Bucket, Captured[Sampled]] = {}

    def capture(self, capture: Capture) -> None:
        """Every bucket, the largest first: the others live in its memory."""
        for bucket in reversed(self.buckets):
            self._capture(bucket, capture)

    def capture_largest(self, capture: Capture) -> None:
        """To see what it takes."""
        for bucket in self.buckets[-1:]:
            self._capture(bucket, capture)

    def bucket_of(self, step: MixedStep) -> Bucket | None:
        """The first captured one that holds the step."""
        return next((bucket for bucket in self.buckets if bucket in self._graphs and bucket.holds(step)), None)

    def run(self, step: MixedStep, bucket: Bucket) -> Sampled:
        """Logits and tokens of the slices that sample, until the next run."""
        self._write(padded(step, bucket))
        self._graphs[bucket].replay()
        n = len(step.sampling)
        return Sampled(logits=self._logits[:n], tokens=self._tokens[:n])

    def clear(self) -> None:
        self._graphs.clear()

    def _capture(self, bucket: Bucket, capture: Capture) -> None:
        self._write(self._idle[bucket])
        self._graphs[bucket] = capture(lambda: self._step(bucket))

    def _write(self, arrays: list[Ints]) -> None:
        flat = np.concatenate(arrays)
        self._inputs[: flat.size].copy_(torch.from_numpy(flat).pin_memory(), non_blocking=True)

    def _step(self, bucket: Bucket) -> Sampled:
        sizes = [len(array) for array in self._idle[bucket]]
        inputs, starts, lengths, decode_lengths, rows, logit_rows, sampled_rows, seqs, firsts = self._inputs[
            : sum(sizes)
        ].split(sizes)
        ready = self._tables.prepare(inputs.view(4, -1))
        batch = CudaBatch(
            token_ids=ready.token_ids, positions=ready.positions, slots=ready.slots, page_table=self._tables.page_table,
            query_starts=starts, kv_lengths=lengths, logit_rows=logit_rows, rows=rows, num_decodes=bucket.decodes,
            decode_lengths=decode_lengths,
            decode_choice=self._choose(max(bucket.decodes // 4, 1)),  # seldom full: few sequences need more splits
            tiles=Tiles(seqs=seqs, starts=firsts),
        )  # fmt: skip
        n = bucket.seqs
        self._logits[:n].copy_(self._model(batch))
        greedy(self._logits[:n], self._tokens[:n], sampled_rows, self._tables.last_tokens)
        return Sampled(logits=self._logits[:n], tokens=self._tokens[:n])
