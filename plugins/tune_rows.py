"""The trial of linears that prepare their own input, at few rows. Part of a build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ingot.network.config import ModelConfig
from ingot.network.weights import Weight
from ingot.plugins.cuda_ops import CudaOps
from ingot.plugins.linear.launch import Choices
from ingot.plugins.linear.reference import linear
from ingot.plugins.rms_norm.reference import add_rms_norm
from ingot.plugins.trial import Trial
from ingot.plugins.variants import Variants

LAYERS = 8


def preparation_trial(
    config: ModelConfig, weights: Mapping[str, Weight[Tensor]], choices: Choices, dtype: torch.dtype, rows: int
) -> Trial[object]:
    """Ways: rows up to which linears prepare, 0 or `rows`. All of a layer's linears that read a norm or attention."""
    device, width = weights["embed"].data.device, config.hidden_size
    ops = {
        most: CudaOps(
            config,
            weights,
            [],
            dtype=dtype,
            choices=replace(choices, variants=Variants(prepared_rows=most)),
            max_position=1,
        )
        for most in (0, rows)
    }
    x, residual = (torch.randn(rows, width, device=device).to(dtype) for _ in range(2))
    heads = torch.randn(rows, config.num_heads * config.head_dim, device=device).to(dtype)

    def layer(way: object, number: int) -> list[Tensor]:
        own, name = ops[int(str(way))], f"layers.{number}"
        qkv = own.linear(f"{name}.qkv", own.rms_norm(f"{name}.input_norm", x))
        out = own.linear(f"{name}.o", heads)
        ready, total = own.add_rms_norm(f"{name}.post_norm", x, residual.clone())
        return [qkv, out, own.linear(f"{name}.gate_up", ready), total]

    def joined(parts: list[Tensor]) -> Tensor:
        return torch.cat([part.float().flatten() / part.float().norm() for part in parts])

    def truth() -> Tensor:
        w, eps, zero = (
            {k: v for k, v in weights.items() if k.startswith("layers.0.")},
            config.rms_norm_eps,
            torch.zeros_like(x),
        )
        first, _ = add_rms_norm(x.float(), zero.float(), w["layers.0.input_norm"].data.float(), eps)
        second, total = add_rms_norm(x.float(), residual.float(), w["layers.0.post_norm"].data.float(), eps)
        ready = {"qkv": first, "o": heads.float(), "gate_up": second}
        return joined([*(linear(each, w[f"layers.0.{kind}"]) for kind, each in ready.items()), total])

    count = min(LAYERS, config.num_layers)
    return Trial(
        name=f"linears that prepare {rows} rows",
        ways=[0, rows],
        check=lambda way: joined(layer(way, 0)),
        truth=truth(),
        run=lambda way: [layer(way, number) for number in range(count)],
    )
