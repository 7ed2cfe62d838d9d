"""What a checkpoint declares about its quantization, in ModelOpt's words or in compressed-tensors'.

Knows the two formats' metadata; refuses every other by name. Reads no tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ingot.builder.checkpoint import Checkpoint, read_json
from ingot.errors import UnsupportedModelError

MODELOPT = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8-dynamic",
    "W8A8_SQ_PER_CHANNEL": "int8",
    "INT8_SQ": "int8",
    "W4A16_AWQ": "int4",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
}
MEND = "Give the unquantized checkpoint and let ingot quantize it: --quant."


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """How the linears and the KV cache of a checkpoint are quantized."""

    quant: str  # as in the recipe; none for a plain checkpoint
    kv: str  # fp8 or auto
    method: str  # modelopt | compressed-tensors | none


def read_declared(checkpoint: Checkpoint) -> Declared:
    """Raises UnsupportedModelError naming the method, algorithm or field that ingot cannot build."""
    config = checkpoint.config.get("quantization_config")
    legacy = checkpoint.folder / "hf_quant_config.json"
    if config is None and legacy.is_file():
        config = {"quant_method": "modelopt", **read_json(legacy).get("quantization", {})}
    if config is None:
        return Declared(quant="none", kv="auto", method="none")
    method = config.get("quant_method")
    if method == "modelopt":
        return read_modelopt(config)
    if method == "compressed-tensors":
        return read_compressed_tensors(config)
    raise UnsupportedModelError(
        f"The checkpoint is quantized with quant_method {method!r}; ingot builds modelopt and compressed-tensors.",
        mend=MEND,
    )


def read_modelopt(config: Mapping[str, Any]) -> Declared:
    algo = config.get("quant_algo")
    if algo not in (*MODELOPT, None):
        raise UnsupportedModelError(
            f"The checkpoint has quant_algo {algo!r}; ingot builds {', '.join(MODELOPT)}.", mend=MEND
        )
    group = config.get("group_size")
    quant = MODELOPT[algo] if algo else "none"
    if group and group != {"int4": 128, "nvfp4": 16}.get(quant, group):
        raise UnsupportedModelError(
            f"The checkpoint has {algo} in groups of {group}, which ingot has no kernel for.", mend=MEND
        )
    scheme = config.get("kv_cache_scheme")
    kv_algo = config.get("kv_cache_quant_algo") or ("FP8" if is_fp8(scheme) else scheme)
    if kv_algo not in (None, "FP8"):
        raise UnsupportedModelError(
            f"The checkpoint has a KV cache quantized as {kv_algo!r}; ingot builds FP8.", mend=MEND
        )
    return Declared(quant=quant, kv="fp8" if kv_algo else "auto", method="modelopt")


def read_compressed_tensors(config: Mapping[str, Any]) -> Declared:
    """FP8 in compressed-tensors' "float-quantized" format: per tensor and static, or per channel and dynamic."""
    if config.get("format") not in ("float-quantized", "naive-quantized"):
        raise UnsupportedModelError(
            f"The checkpoint has compressed-tensors format {config.get('format')!r}; ingot builds float-quantized.",
            mend=MEND,
        )
    dynamic = set()
    for name, group in (config.get("config_groups") or {}).items():
        weights, inputs = group.get("weights") or {}, group.get("input_activations") or {}
        if (
            not is_fp8(weights)
            or weights.get("strategy") not in ("tensor", "channel")
            or not weights.get("symmetric", True)
        ):
            raise UnsupportedModelError(
                f"{name} quantizes weights as {dict(weights)}; ingot builds symmetric FP8.", mend=MEND
            )
        if not is_fp8(inputs) or inputs.get("strategy") not in ("tensor", "token"):
            raise UnsupportedModelError(f"{name} quantizes inputs as {dict(inputs)}; ingot builds FP8.", mend=MEND)
        dynamic.add(bool(inputs.get("dynamic")))
    if len(dynamic) != 1:
        raise UnsupportedModelError("config_groups mix static and dynamic inputs, or are empty.", mend=MEND)
    scheme = config.get("kv_cache_scheme")
    if scheme and not is_fp8(scheme):
        raise UnsupportedModelError(f"kv_cache_scheme is {scheme}; ingot builds FP8.", mend=MEND)
    quant = "fp8-dynamic" if dynamic.pop() else "fp8"
    return Declared(quant=quant, kv="fp8" if scheme else "auto", method="compressed-tensors")


def is_fp8(scheme: object) -> bool:
    return isinstance(scheme, Mapping) and scheme.get("num_bits") == 8 and scheme.get("type") == "float"
