"""transformers' own model as the other side of a comparison: code that shares nothing with ours.

The one module of the builder, besides calibration, that imports transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ingot.builder.hush import hushed


class TransformersModel:
    """Runs every text when made and keeps each layer's output. For models whose hidden states fit in memory."""

    def __init__(self, folder: Path, texts: Sequence[Sequence[int]], device: str) -> None:
        self._model = load(folder)
        self._model.to(device)
        layers = self._model.model.layers
        self._outputs: list[list[Tensor]] = [[] for _ in layers]
        for layer, module in enumerate(layers):
            module.register_forward_hook(self._keep(layer))
        self._final = [
            self._model.model(torch.tensor([list(text)], device=device)).last_hidden_state[0] for text in texts
        ]
        self.residuals: list[Tensor] = []

    def step(self, layer: int) -> None:
        self.residuals = self._outputs[layer]

    def logits(self, index: int) -> Tensor:
        logits: Tensor = self._model.lm_head(self._final[index]).float()
        return logits

    def _keep(self, layer: int) -> Any:
        def hook(module: object, inputs: object, output: Any) -> None:
            self._outputs[layer].append((output[0] if isinstance(output, tuple) else output)[0])

        return hook


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    with hushed():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
