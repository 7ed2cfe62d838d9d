"""The linears of a checkpoint, plain or quantized, brought to the layouts of network/weights.py and fused.

Knows how ModelOpt and compressed-tensors store a quantized module; refuses to know files and layers' order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ingot.builder.checkpoint import Checkpoint
from ingot.errors import CheckpointError, UnsupportedModelError
from ingot.network.weights import INT4_GROUP, NVFP4_GROUP, Scheme, Weight
from ingot.plugins.quantize.reference import pack_nibbles

FLOATS = ("F32", "F16", "BF16")
# What may stand beside a module's weight. weight_shape and zero points say nothing a symmetric scheme needs.
SUFFIXES = ("weight", "bias", "weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale")

Read = Callable[[str], torch.Tensor | None]  # a tensor of the checkpoint, or None where there is none of that name
Linear = Weight[torch.Tensor]


def read_module(checkpoint: Checkpoint, module: str, read: Read, dtype: torch.dtype) -> Linear:
    """One nn.Linear, (N, K), in the canonical layout. Raises CheckpointError where its tensors do not fit together."""
    info = checkpoint.tensors.get(f"{module}.weight")
    if info is None:
        raise CheckpointError(f"{checkpoint.folder} lacks {module}.weight.", mend="Fetch the checkpoint again.")
    found = {suffix: read(f"{module}.{suffix}") for suffix in SUFFIXES}
    weight, scale, scale_2 = found["weight"], found["weight_scale"], found["weight_scale_2"]
    assert weight is not None
    input_scale, pre_scale, bias = found["input_scale"], found["pre_quant_scale"], found["bias"]
    linear = Weight(
        scheme=scheme_of(module, info.dtype, scale, scale_2),
        data=weight,
        input_scale=None if input_scale is None else input_scale.float().reshape(()),
        pre_scale=None if pre_scale is None else pre_scale.float(),
        bias=None if bias is None else bias.to(dtype),
    )
    if linear.scheme is Scheme.NONE:
        return replace(linear, data=weight.to(dtype))
    assert scale is not None
    rows = weight.shape[0]
    if linear.scheme is Scheme.FP8 or linear.scheme is Scheme.INT8:
        return replace(linear, weight_scale=per_row(module, scale, rows))
    if linear.scheme is Scheme.INT4:
        data = repack_int4(weight)
        if scale.shape != (2 * rows, 2 * data.shape[1] // INT4_GROUP):
            raise mismatch(module, f"INT4 weight of {2 * rows} rows has scales {tuple(scale.shape)}")
        return replace(linear, data=data, weight_scale=scale.float())
    if scale.shape != (rows, 2 * weight.shape[1] // NVFP4_GROUP):
        raise mismatch(module, f"NVFP4 weight {tuple(weight.shape)} has scales {tuple(scale.shape)}")
    assert scale_2 is not None
    return replace(linear, weight_scale=scale, weight_scale_2=per_row(module, scale_2, rows))


def scheme_of(module: str, dtype: str, scale: torch.Tensor | None, scale_2: torch.Tensor | None) -> Scheme:
    if dtype in FLOATS:
        return Scheme.NONE
    found = {"F8_E4M3": Scheme.FP8, "I8": Scheme.INT8, "U8": Scheme.INT4 if scale_2 is None else Scheme.NVFP4}.get(
        dtype
    )
    if found is None:
        raise UnsupportedModelError(
            f"{module}.weight is {dtype}, which no scheme of ingot reads.", mend="Use another checkpoint."
        )
    if scale is None:
        raise mismatch(module, f"weight is {dtype} but has no weight_scale")
    return found


def per_row(module: str, scale: torch.Tensor, rows: int) -> torch.Tensor:
    """A scale per tensor, (N,) or (N, 1) as (N,) in float32."""
    if scale.numel() not in (1, rows):
        raise mismatch(module, f"weight of {rows} rows has scales {tuple(scale.shape)}")
    return scale.float().reshape(-1).expand(rows).contiguous()


def repack_int4(packed: torch.Tensor) -> torch.Tensor:
    """ModelOpt's (N/2, K), low nibble = even row (export/quant_utils.py pack_int4_in_uint8), as (N, K/2), low nibble = even k."""
    rows = torch.stack((packed & 0xF, packed >> 4), dim=1).reshape(2 * packed.shape[0], packed.shape[1])
    return pack_nibbles(rows)


def fuse(name: str, parts: Sequence[Linear]) -> Linear:
    """Linears that share an input as one, rows concatenated.

    Each part keeps its own weight scales. The input is rounded once, by the largest of the parts' scales, so nothing
    that one part was calibrated to hold is cut off.
    """
    if len({part.scheme for part in parts}) > 1:
        schemes = ", ".join(part.scheme for part in parts)
        raise UnsupportedModelError(
            f"{name} fuses weights of different schemes: {schemes}.", mend="Quantize them alike."
        )
    first = parts[0]
    if len(parts) == 1:
        return first
    if len({part.input_scale is None for part in parts}) > 1 or len({part.data.shape[1] for part in parts}) > 1:
        raise mismatch(name, "its parts do not take the same input")
    if any(not same(part.pre_scale, first.pre_scale) for part in parts):
        raise UnsupportedModelError(
            f"The parts of {name} have different pre_quant_scale.", mend="Export with ModelOpt's export_hf_checkpoint."
        )
    return replace(
        first,
        data=torch.cat([part.data for part in parts]),
        weight_scale=joined([part.weight_scale for part in parts]),
        weight_scale_2=joined([part.weight_scale_2 for part in parts]),
        input_scale=None
        if first.input_scale is None
        else torch.stack([p.input_scale for p in parts if p.input_scale is not None]).amax(),
        bias=joined_bias(parts),
    )


def joined(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present) if present else None


def joined_bias(parts: Sequence[Linear]) -> torch.Tensor | None:
    dtype = next((part.bias.dtype for part in parts if part.bias is not None), None)
    if dtype is None:
        return None
    return torch.cat([p.bias if p.bias is not None else torch.zeros(p.data.shape[0], dtype=dtype) for p in parts])


def same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))


def mismatch(module: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{module}: {what}.", mend="Fetch the checkpoint again, or quantize the original with --quant."
    )
