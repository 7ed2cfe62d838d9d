"""The verdict on an engine's figures: within the recipe's bounds, or not and by how much. Plain numbers, no tensors."""

from __future__ import annotations

import dataclasses
from typing import Any

from ingot.builder.recipe import Bounds
from ingot.errors import QualityError

WORST = 3


def judge(figures: dict[str, Any], bounds: Bounds, *, allow_loss: bool) -> dict[str, Any]:
    """The manifest's quality record: figures, bounds and verdict. Raises QualityError past a bound, naming the worst layers."""
    past = breaches(figures, bounds)
    if past and not allow_loss:
        raise QualityError(
            f"The engine strays too far from {figures['reference']}: {'; '.join(past)}. {worst_layers(figures)}",
            mend="Use a milder --quant, more or better --calibration text, or keep it with --allow-quality-loss.",
        )
    return {**figures, "bounds": dataclasses.asdict(bounds), "within_bounds": not past, "breaches": past}


def breaches(figures: dict[str, Any], bounds: Bounds) -> list[str]:
    """Written so that a NaN counts as a breach."""
    past = []
    if not figures["ppl_ratio"] <= bounds.ppl_ratio:
        past.append(f"perplexity ratio {figures['ppl_ratio']:.4f} is above {bounds.ppl_ratio}")
    if not figures["kl"] <= bounds.kl:
        past.append(f"mean KL divergence {figures['kl']:.5f} is above {bounds.kl}")
    if not figures["agreement"] >= bounds.agreement:
        past.append(f"greedy agreement {figures['agreement']:.4f} is below {bounds.agreement}")
    return past


def worst_layers(figures: dict[str, Any]) -> str:
    """The layers whose own step adds most error, in words."""
    errors: list[float] = figures["layer_errors"]
    order = sorted(range(len(errors)), key=lambda layer: -added(errors, layer))[:WORST]
    named = ", ".join(f"layers.{layer} ({errors[layer]:.2%}, {added(errors, layer):+.2%})" for layer in order)
    return f"Worst layers by relative error of their output, and how much each adds: {named}."


def added(errors: list[float], layer: int) -> float:
    return errors[layer] - (errors[layer - 1] if layer else 0.0)
