"""Two steps of a ragged, chunked batch, run by a graph and by the reference ops, compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor

from ingot.network.config import ModelConfig
from ingot.network.decoder import decoder
from ingot.network.ops import Batch
from ingot.plugins.attention.cache import allocate_caches
from ingot.plugins.load import read_weights
from ingot.plugins.reference_ops import ReferenceOps

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
PAGE_SIZE, NUM_PAGES = 4, 8
PAGES = ([6, 1, 3], [2, 5, 0], [4, 7, 0])  # of three sequences, scattered


def steps(vocab_size: int) -> list[Batch[Tensor]]:
    """First: 5 tokens of a prompt and a whole one of 3. Then: 4 more of the first, one decoded, a new prompt of 6."""
    return [batch([(0, 0, 5), (1, 0, 3)], vocab_size), batch([(0, 5, 4), (1, 3, 1), (2, 0, 6)], vocab_size)]


def batch(parts: list[tuple[int, int, int]], vocab_size: int) -> Batch[Tensor]:
    """parts: (sequence, first position, tokens)."""
    positions = [start + i for _, start, count in parts for i in range(count)]
    owners = [sequence for sequence, _, count in parts for _ in range(count)]
    slots = [PAGES[s][p // PAGE_SIZE] * PAGE_SIZE + p % PAGE_SIZE for s, p in zip(owners, positions, strict=True)]
    starts = np.cumsum([0, *(count for *_, count in parts)]).tolist()
    return Batch(
        token_ids=torch.tensor([(7 * p + 31 * s + 3) % vocab_size for s, p in zip(owners, positions, strict=True)]),
        positions=torch.tensor(positions),
        slots=torch.tensor(slots),
        page_table=torch.tensor([PAGES[s] for s, *_ in parts]),
        query_starts=torch.tensor(starts),
        kv_lengths=torch.tensor([start + count for _, start, count in parts]),
        logit_rows=torch.tensor([end - 1 for end in starts[1:]]),
    )


def reference_logits(
    engine: Path, config: ModelConfig, kv_dtype: torch.dtype | None = None, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    weights = read_weights(load_file(engine / "weights" / "model.safetensors"), config)
    caches = allocate_caches(config, NUM_PAGES, PAGE_SIZE, kv_dtype or dtype)
    ops = ReferenceOps(config, weights, caches, dtype=dtype)
    return [decoder(ops, config, step) for step in steps(config.vocab_size)]


def graph_logits(
    run: Callable[[Feeds], Mapping[str, Array]], config: ModelConfig, kv_dtype: Any = np.float32
) -> list[Array]:
    """`run` maps inputs to outputs by name; each step's caches feed the next."""
    shape = (2, NUM_PAGES, config.num_kv_heads, PAGE_SIZE, config.head_dim)
    caches = [np.zeros(shape, kv_dtype) for _ in range(config.num_layers)]
    found = []
    for step in steps(config.vocab_size):
        feeds = {field.name: getattr(step, field.name).numpy().astype(np.int32) for field in fields(step)}
        outputs = run(feeds | {f"kv_cache.{layer}": cache for layer, cache in enumerate(caches)})
        caches = [outputs[f"kv_cache_out.{layer}"] for layer in range(config.num_layers)]
        found.append(outputs["logits"])
    return found


def runner(evaluator: Any) -> Callable[[Feeds], Mapping[str, Array]]:
    return lambda feeds: dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))
