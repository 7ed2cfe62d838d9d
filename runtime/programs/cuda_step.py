"""A step plan as few integer arrays for the GPU: decode steps of one token each, and mixed steps. Knows kernels' shapes, not kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingot.network.config import ModelConfig
from ingot.plugins.attention.tiles import plan_tiles, prefill_rows
from ingot.runtime.plan import Slice

Ints = NDArray[np.int32]


def is_decode(slices: list[Slice]) -> bool:
    return all(len(part.tokens) == 1 for part in slices)


def late_pages(slices: list[Slice], *, inline: bool) -> Ints:
    """(3, n): row, index and page of new page-table entries; with `inline`, without those a decode step carries itself."""
    rows: list[int] = []
    indices: list[int] = []
    pages: list[int] = []
    for part in slices:
        if (new := part.num_new_pages) > inline:
            end = len(part.pages)
            rows += [part.row] * new
            indices += range(end - new, end)
            pages += part.pages[end - new :]
    return np.array((rows, indices, pages), np.int32)


def decode_inputs(slices: list[Slice], bucket: int) -> Ints:
    """(4, bucket): row, position, token, new page; padded with -1."""
    inputs = np.full((4, bucket), -1, np.int32)
    n = len(slices)
    inputs[0, :n] = [part.row for part in slices]
    inputs[1, :n] = [part.start for part in slices]
    inputs[2, :n] = [part.tokens[0] for part in slices]
    inputs[3, :n] = [part.pages[-1] if part.num_new_pages == 1 else -1 for part in slices]
    return inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedStep:
    """Sequences that decode come first, so that each kernel sees its own in one piece."""

    order: list[int]  # the plan's slices in the order they run
    num_decodes: int
    inputs: Ints  # (4, T) as decode_inputs, without padding
    query_starts: Ints  # (S + 1,)
    lengths: Ints  # (S,)
    rows: Ints  # (S,)
    sampling: list[int]  # slices that sample, in the order of the first logits
    logit_rows: Ints  # (R,) rows of the flat batch: of those that sample, then of scored prompts
    sampled_rows: Ints  # (len(sampling),)
    tile_seqs: Ints
    tile_starts: Ints


def prompt_tile(config: ModelConfig) -> int:
    """Tokens of a prompt that one program of the prefill kernel takes."""
    group = config.num_heads // config.num_kv_heads
    return prefill_rows(group, config.head_dim) // group


def mixed_step(slices: list[Slice], scored: list[tuple[int, int]], tile: int) -> MixedStep:
    """`scored` are (slice, number of its first tokens) whose logits are wanted besides; `tile`: see prompt_tile."""
    order = sorted(range(len(slices)), key=lambda i: len(slices[i].tokens) > 1)
    parts = [slices[i] for i in order]
    num_decodes = sum(len(part.tokens) == 1 for part in parts)
    counts = np.array([len(part.tokens) for part in parts], np.int32)
    starts = np.array([part.start for part in parts], np.int32)
    rows = np.array([part.row for part in parts], np.int32)
    edges = np.concatenate((np.zeros(1, np.int32), counts.cumsum(dtype=np.int32)))
    positions = np.arange(edges[-1], dtype=np.int32) + np.repeat(starts - edges[:-1], counts)
    tokens = np.fromiter((token for part in parts for token in part.tokens), np.int32, int(edges[-1]))
    inputs = np.stack((np.repeat(rows, counts), positions, tokens, np.full_like(tokens, -1)))
    place = {i: at for at, i in enumerate(order)}
    sampling = [i for i in order if slices[i].samples]
    last = [int(edges[place[i] + 1]) - 1 for i in sampling]
    more = [np.arange(edges[place[i]], edges[place[i]] + n, dtype=np.int32) for i, n in scored]
    tiles = plan_tiles([0] * num_decodes + counts[num_decodes:].tolist(), tile)
    seqs, firsts = (
        (np.array(column, np.int32) for column in zip(*tiles, strict=True)) if tiles else (np.zeros(0, np.int32),) * 2
    )
    return MixedStep(
        order=order, num_decodes=num_decodes, inputs=inputs, query_starts=edges, lengths=starts + counts, rows=rows, sampling=sampling,
        logit_rows=np.concatenate((np.array(last, np.int32), *more)), sampled_rows=np.array([slices[i].row for i in sampling], np.int32),
        tile_seqs=seqs, tile_starts=firsts,
    )  # fmt: skip
