"""The cpu target's program of an encoder: texts in, vectors out, a step at a time. Knows tensors and no requests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from ingot.manifest import Manifest
from ingot.network.encoder import EncoderBatch, encoder
from ingot.network.encoder_config import EncoderConfig, read_encoder
from ingot.plugins.dtypes import torch_dtype
from ingot.plugins.encoder.load import read_encoder_tensors
from ingot.plugins.encoder.reference import EncoderReferenceOps
from ingot.plugins.pooling import pooled
from ingot.runtime.programs.tensors import read_tensors

SMALL = 1024  # as of programs/cpu.py: below this hidden size one thread is faster than two


class EncoderProgram:
    def __init__(self, config: EncoderConfig, tensors: Mapping[str, Tensor], *, dtype: torch.dtype) -> None:
        """`tensors` are an encoder engine's, checked. Computes in `dtype`."""
        self._config = config
        with torch.inference_mode():
            self._ops = EncoderReferenceOps(config, tensors, dtype=dtype)

    def vectors(self, texts: Sequence[Sequence[int]], poolings: Sequence[str]) -> list[bytes]:
        """One vector a text, float32 (C,), little-endian. No text may be empty or longer than the model's positions."""
        edges = [0, *accumulate(len(text) for text in texts)]
        token_ids = torch.tensor([token for text in texts for token in text])
        first = self._config.first_position
        batch = EncoderBatch(
            token_ids=token_ids,
            positions=torch.cat([torch.arange(first, first + len(text)) for text in texts]),
            token_types=torch.zeros_like(token_ids),
            query_starts=torch.tensor(edges),
        )
        with torch.inference_mode():
            hidden = encoder(self._ops, self._config, batch)
            return [
                pooled(hidden[start:end], pooling).numpy().tobytes()
                for start, end, pooling in zip(edges, edges[1:], poolings, strict=False)
            ]


def load_encoder_program(engine: Path, manifest: Manifest) -> EncoderProgram:
    """Raises EngineError where files do not make the model the manifest promises."""
    config = read_encoder(json.loads((engine / "config.json").read_text()))
    if config.hidden_size < SMALL:
        torch.set_num_threads(1)
    tensors = read_encoder_tensors(read_tensors(engine / "weights"), config)
    return EncoderProgram(config, tensors, dtype=torch_dtype(manifest.dtype))
