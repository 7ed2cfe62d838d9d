"""Step plans to flat batches: keeps each row's pages and last token, and lays a step's tokens out in order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ingot.manifest import Limits
from ingot.network.ops import Batch
from ingot.runtime.plan import FEED, Slice

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A step's batch and whose its wanted logits are: first those that sample, then those of prompt log-probabilities."""

    batch: Batch[Tensor]
    sampling: list[int]  # slices that sample, in the order of the first logits
    rows: Ints  # (len(sampling),) their rows
    positions: Ints  # (len(sampling),) where their next tokens will stand


class RowTables:
    """What outlives a step, by row: page numbers, and the token sampled last."""

    def __init__(self, limits: Limits) -> None:
        self._page_size = limits.page_size
        self._pages = np.zeros((limits.max_num_seqs, -(-limits.max_model_len // limits.page_size)), np.int64)
        self._last_tokens = np.zeros(limits.max_num_seqs, np.int64)

    def remember(self, rows: Ints, tokens: Tensor) -> None:
        """The tokens that FEED will stand for."""
        self._last_tokens[rows] = tokens.numpy()

    def layout(self, slices: list[Slice], scored: list[tuple[int, int]]) -> Layout:
        """`scored` are (slice, number of its first tokens) whose logits are wanted besides."""
        for part in slices:
            if part.num_new_pages:
                end = len(part.pages)
                self._pages[part.row, end - part.num_new_pages : end] = part.pages[end - part.num_new_pages :]
        rows = np.array([part.row for part in slices], np.int64)
        counts = np.array([len(part.tokens) for part in slices], np.int64)
        starts = np.array([part.start for part in slices], np.int64)
        tokens = np.array([token for part in slices for token in part.tokens], np.int64)
        edges = np.concatenate((np.zeros(1, np.int64), counts.cumsum()))
        positions = np.arange(len(tokens)) + np.repeat(starts - edges[:-1], counts)
        row_of_token = np.repeat(rows, counts)
        tokens = np.where(tokens == FEED, self._last_tokens[row_of_token], tokens)
        pages = self._pages[row_of_token, positions // self._page_size]
        lengths = starts + counts
        used = -(-int(lengths.max()) // self._page_size)
        sampling = np.flatnonzero([part.samples for part in slices])
        wanted = [edges[1:][sampling] - 1, *(np.arange(edges[i], edges[i] + n) for i, n in scored)]
        batch = Batch(
            token_ids=torch.from_numpy(tokens),
            positions=torch.from_numpy(positions),
            slots=torch.from_numpy(pages * self._page_size + positions % self._page_size),
            page_table=torch.from_numpy(self._pages[rows, :used]),
            query_starts=torch.from_numpy(edges),
            kv_lengths=torch.from_numpy(lengths),
            logit_rows=torch.from_numpy(np.concatenate(wanted)),
        )
        return Layout(batch=batch, sampling=sampling.tolist(), rows=rows[sampling], positions=lengths[sampling])
