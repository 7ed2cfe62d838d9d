"""Random weights of a configuration's shapes in any scheme, made on the device: for benchmarks, as varied as a model's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ingot.network.config import ModelConfig
from ingot.network.weights import INT4_GROUP, LINEARS, Scheme, Weight, linear_shape
from ingot.plugins.quantize.reference import FP8_MAX

# The largest inputs of these weights' linears over the 65,536 tokens that a build calibrates with: 268 million values of
# N(0, 1) after norms; attention's output is a value where a sequence begins; silu(gate) * up has a product's long tail.
LARGEST_INPUTS = {"qkv": 6.0, "o": 5.0, "gate_up": 6.0, "down": 18.0}
FP8_INPUT_SCALES = {kind: largest / FP8_MAX for kind, largest in LARGEST_INPUTS.items()}


def quantized_weights(
    config: ModelConfig, quant: str, dtype: torch.dtype, device: torch.device
) -> dict[str, Weight[Tensor]]:
    """As a build's `--quant` has them: fp8 rounds inputs by fixed scales, fp8-dynamic per token.

    Not so int8, int4 and nvfp4, which lack the input_scale and pre_scale that calibration finds.
    """
    scales = FP8_INPUT_SCALES if quant == "fp8" else None
    return random_weights(config, Scheme.of(quant), dtype, device, input_scales=scales)


def random_weights(
    config: ModelConfig, scheme: Scheme, dtype: torch.dtype, device: torch.device, *, lm_head: Scheme = Scheme.NONE,
    input_scales: Mapping[str, float] | None = None,
) -> dict[str, Weight[Tensor]]:  # fmt: skip
    """Canonical names to weights of a whole model; embeddings and norms stay floats. The scale keeps activations near 1.

    `input_scales`: of linears by their kind. Inputs of the others are rounded per token, where the scheme rounds them.
    """
    scales = input_scales or {}
    weights = {
        "embed": floats(config.vocab_size, config.hidden_size, dtype, device),
        "final_norm": ones(config.hidden_size, dtype, device),
    }
    if not config.tie_embeddings:
        weights["lm_head"] = random_linear(config.vocab_size, config.hidden_size, lm_head, dtype, device)
    for layer in range(config.num_layers):
        for kind in LINEARS:
            biased = (config.qkv_bias and kind == "qkv") or (config.o_bias and kind == "o")
            weights[f"layers.{layer}.{kind}"] = random_linear(
                *linear_shape(config, kind), scheme, dtype, device, bias=biased, input_scale=scales.get(kind)
            )
        for norm in ("input_norm", "post_norm"):
            weights[f"layers.{layer}.{norm}"] = ones(config.hidden_size, dtype, device)
        for norm in ("q_norm", "k_norm") if config.qk_norm else ():
            weights[f"layers.{layer}.{norm}"] = ones(config.head_dim, dtype, device)
    return weights


def floats(n: int, k: int, dtype: torch.dtype, device: torch.device) -> Weight[Tensor]:
    return Weight(scheme=Scheme.NONE, data=torch.randn(n, k, dtype=dtype, device=device) * k**-0.5)


def ones(n: int, dtype: torch.dtype, device: torch.device) -> Weight[Tensor]:
    return Weight(scheme=Scheme.NONE, data=torch.ones(n, dtype=dtype, device=device))


def random_linear(
    n: int, k: int, scheme: Scheme, dtype: torch.dtype, device: torch.device, *, bias: bool = False,
    input_scale: float | None = None,
) -> Weight[Tensor]:  # fmt: skip
    """Values of about N(0, 1 / k), straight in the scheme's storage."""
    extra = torch.zeros(n, dtype=dtype, device=device) if bias else None
    static = None if input_scale is None else torch.tensor(input_scale, device=device)
    deviation = k**-0.5
    match scheme:
        case Scheme.NONE:
            return Weight(scheme=scheme, data=torch.randn(n, k, dtype=dtype, device=device) * deviation, bias=extra)
        case Scheme.FP8:
            data = (torch.randn(n, k, dtype=dtype, device=device) * 100).clamp(-448, 448).to(torch.float8_e4m3fn)
            scale = torch.full((n,), deviation / 100, device=device)
        case Scheme.INT8:
            data = (torch.randn(n, k, dtype=dtype, device=device) * 32).clamp(-127, 127).to(torch.int8)
            scale = torch.full((n,), deviation / 32, device=device)
        case Scheme.INT4:
            low, high = (
                torch.randint(-7, 8, (n, k // 2), dtype=torch.int8, device=device).view(torch.uint8) for _ in range(2)
            )
            data = (low & 15) | (high << 4)
            scale = torch.full((n, k // INT4_GROUP), deviation / 4, device=device)
        case Scheme.NVFP4:
            data = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8, device=device)
            blocks = torch.ones(n, k // 16, device=device).to(torch.float8_e4m3fn)
            scale_2 = torch.full((n,), deviation / 3, device=device)
            return Weight(scheme=scheme, data=data, weight_scale=blocks, weight_scale_2=scale_2, bias=extra)
    return Weight(scheme=scheme, data=data, weight_scale=scale, input_scale=static, bias=extra)
