"""An engine's tensors, by canonical names, to checked weights. Knows shapes and dtypes, not files."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ingot.errors import EngineError
from ingot.network.config import ModelConfig
from ingot.network.names import sources
from ingot.network.weights import INT4_GROUP, LINEARS, NVFP4_GROUP, Scheme, Weight, linear_shape

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
PARTS = ("bias", "weight_scale", "weight_scale_2", "input_scale", "pre_scale")


def read_weights(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Weight[Tensor]]:
    """Weights of a whole model from `<name>.weight` and what stands beside it; `layers.N.kv_scale` is a tensor itself.

    Raises EngineError for a tensor that is missing, superfluous, or of a shape or dtype that the model does not have.
    """
    wanted = set(sources(config))
    kv_scales = {f"layers.{layer}.kv_scale" for layer in range(config.num_layers)}
    found = {key if key in kv_scales else key.rpartition(".")[0] for key in tensors}
    if missing := sorted(wanted - found):
        raise broken(f"lacks the weight {missing[0]!r}")
    if foreign := sorted(found - wanted - kv_scales):
        raise broken(f"has a weight {foreign[0]!r}, which this model does not")
    weights = {name: read_weight(tensors, name, config) for name in sorted(found)}
    used = kv_scales | {f"{name}.{part}" for name in found for part in ("weight", *PARTS)}
    if odd := sorted(set(tensors) - used):
        raise broken(f"has a tensor {odd[0]!r}, which ingot does not know")
    return weights


def read_weight(tensors: Mapping[str, Tensor], name: str, config: ModelConfig) -> Weight[Tensor]:
    key = name if name.endswith(".kv_scale") else f"{name}.weight"
    if key not in tensors:
        raise broken(f"lacks the tensor {key}")
    data = tensors[key]
    parts = {part: tensors[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in tensors}
    shape = weight_shape(config, name)
    rounded_head = name == "lm_head" and data.dtype == torch.float8_e4m3fn
    if name.rpartition(".")[2] not in LINEARS and not rounded_head:
        if tuple(data.shape) != shape or data.dtype not in FLOATS or parts:
            raise broken(f"has {name} as {describe(data)}{' with ' + ', '.join(parts) if parts else ''}, not {shape}")
        return Weight(scheme=Scheme.NONE, data=data)
    scheme = scheme_of(name, data, parts)
    expected = part_shapes(scheme, *shape)
    for part, tensor in {"weight": data, **parts}.items():
        if part == "input_scale" and tensor.numel() == 1:
            continue
        if expected.get(part) != tuple(tensor.shape):
            raise broken(
                f"has {name}.{part} as {describe(tensor)}, not {expected.get(part)} as {scheme} weights of {shape}"
            )
    needed = {part for part in ("weight_scale", "weight_scale_2") if part in expected}
    if (has_bias(config, name) != ("bias" in parts)) or not needed <= parts.keys():
        raise broken(f"has {name} with {', '.join(parts) or 'no bias or scales'}, which is not what {scheme} asks for")
    return Weight(scheme=scheme, data=data, **parts)


def weight_shape(config: ModelConfig, name: str) -> tuple[int, ...]:
    """Of the weight's values, unpacked."""
    kind = name.rpartition(".")[2]
    if kind in LINEARS:
        return linear_shape(config, kind)
    if kind in ("embed", "lm_head"):
        return (config.vocab_size, config.hidden_size)
    if kind == "kv_scale":
        return (2,)
    return (config.head_dim if kind in ("q_norm", "k_norm") else config.hidden_size,)


def has_bias(config: ModelConfig, name: str) -> bool:
    return (config.qkv_bias and name.endswith(".qkv")) or (config.o_bias and name.endswith(".o"))


def scheme_of(name: str, data: Tensor, parts: Mapping[str, Tensor]) -> Scheme:
    if data.dtype in FLOATS:
        return Scheme.NONE
    if data.dtype == torch.float8_e4m3fn:
        return Scheme.FP8
    if data.dtype == torch.int8:
        return Scheme.INT8
    if data.dtype == torch.uint8:
        return Scheme.NVFP4 if "weight_scale_2" in parts else Scheme.INT4
    raise broken(f"has {name} as {describe(data)}, a dtype that no scheme uses")


def part_shapes(scheme: Scheme, n: int, k: int) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor a linear of that scheme may have."""
    shapes: dict[str, tuple[int, ...]] = {"weight": (n, k), "bias": (n,), "pre_scale": (k,)}
    match scheme:
        case Scheme.FP8 | Scheme.INT8:
            shapes |= {"weight_scale": (n,)}
        case Scheme.INT4:
            shapes |= {"weight": (n, k // 2), "weight_scale": (n, k // INT4_GROUP)}
        case Scheme.NVFP4:
            shapes |= {"weight": (n, k // 2), "weight_scale": (n, k // NVFP4_GROUP), "weight_scale_2": (n,)}
    return shapes


def describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def broken(what: str) -> EngineError:
    return EngineError(f"The engine {what}.", mend="Build it again.")
