"""An engine's tensors are checked before use: whatever the model does not have is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ingot.errors import EngineError
from ingot.network.config import ModelConfig
from ingot.network.names import sources
from ingot.network.weights import LINEARS, Scheme
from ingot.plugins.load import has_bias, read_weights, weight_shape
from ingot.plugins.quantize import reference as quantize

CONFIG = ModelConfig(
    family="qwen2",
    vocab_size=32,
    hidden_size=128,
    intermediate_size=128,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=64,
    max_position=64,
    rms_norm_eps=1e-5,
    rope_theta=1e4,
    windows=(0, 0),
    qkv_bias=True,
)


def tensors() -> dict[str, Tensor]:
    found = {f"{name}.weight": torch.randn(weight_shape(CONFIG, name)) for name in sources(CONFIG)}
    return found | {f"{name}.bias": torch.randn(256) for name in sources(CONFIG) if has_bias(CONFIG, name)}


def quantized(scheme: Scheme) -> dict[str, Tensor]:
    found = tensors()
    for name in [name for name in sources(CONFIG) if name.rpartition(".")[2] in LINEARS]:
        data = found[f"{name}.weight"]
        if scheme is Scheme.NVFP4:
            parts = dict(zip(("weight", "weight_scale", "weight_scale_2"), quantize.quantize_nvfp4(data), strict=True))
        elif scheme is Scheme.INT4:
            parts = dict(zip(("weight", "weight_scale"), quantize.quantize_int4(data), strict=True))
        else:
            scale = quantize.row_scale(data, quantize.FP8_MAX)
            rounded = quantize.quantize_fp8 if scheme is Scheme.FP8 else quantize.quantize_int8
            parts = {"weight": rounded(data, scale.unsqueeze(1)), "weight_scale": scale}
            parts |= {"input_scale": torch.tensor(0.1), "pre_scale": torch.ones(data.shape[1])}
        found |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    return found


@pytest.mark.parametrize("scheme", [Scheme.FP8, Scheme.INT8, Scheme.INT4, Scheme.NVFP4])
def test_schemes_are_recognized_by_their_tensors(scheme: Scheme) -> None:
    found = read_weights(quantized(scheme) | {"layers.1.kv_scale": torch.ones(2)}, CONFIG)
    assert {found[f"layers.{i}.{kind}"].scheme for i in range(2) for kind in LINEARS} == {scheme}
    assert found["embed"].scheme is Scheme.NONE
    assert found["layers.0.qkv"].bias is not None
    assert found["layers.1.kv_scale"].data.tolist() == [1, 1]


CASES: list[tuple[Callable[[dict[str, Tensor]], object], str]] = [
    (lambda t: t.pop("layers.1.down.weight"), "lacks the weight 'layers.1.down'"),
    (lambda t: t.update({"layers.2.o.weight": torch.ones(1)}), "layers.2.o"),
    (lambda t: t.update({"embed.weight": torch.ones(32, 127)}), r"embed as float32 \(32, 127\)"),
    (lambda t: t.update({"layers.0.o.weight": torch.ones(2, 2)}), r"layers.0.o.weight as float32 \(2, 2\)"),
    (lambda t: t.update({"layers.0.o.bias": torch.ones(128)}), "layers.0.o with bias"),
    (lambda t: t.pop("layers.0.qkv.bias"), "layers.0.qkv with no bias"),
    (
        lambda t: t.update({"layers.0.o.weight": torch.ones(128, 128, dtype=torch.int8)}),
        "layers.0.o with no bias or scales",
    ),
    (lambda t: t.update({"layers.0.o.weight": torch.ones(128, 128, dtype=torch.int64)}), "no scheme uses"),
    (lambda t: t.update({"layers.0.o.zero_point": torch.ones(1)}), "layers.0.o.zero_point"),
    (lambda t: t.update({"final_norm.weight": torch.ones(128, dtype=torch.int8)}), "final_norm as int8"),
    (lambda t: t.update({"layers.0.kv_scale": torch.ones(3)}), "layers.0.kv_scale"),
]


@pytest.mark.parametrize(("damage", "message"), CASES)
def test_damage_is_named(damage: Callable[[dict[str, Tensor]], object], message: str) -> None:
    found = tensors()
    read_weights(found, CONFIG)
    damage(found)
    with pytest.raises(EngineError, match=message):
        read_weights(found, CONFIG)
