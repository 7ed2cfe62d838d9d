"""What quantized checkpoints say of themselves: known schemes are understood, all others refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ingot.builder.checkpoint import Checkpoint
from ingot.builder.quantize.declared import read_declared
from ingot.errors import UnsupportedModelError

FP8: dict[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True}


def declared(config: dict[str, Any] | None, folder: Path) -> tuple[str, str, str]:
    found = read_declared(Checkpoint(folder=folder, config={"quantization_config": config}, tensors={}))
    return found.quant, found.kv, found.method


def compressed(weights: dict[str, Any], inputs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": group},
        **fields,
    }


DYNAMIC = compressed({**FP8, "strategy": "channel"}, {**FP8, "strategy": "token", "dynamic": True})
STATIC = compressed({**FP8, "strategy": "tensor"}, {**FP8, "strategy": "tensor", "dynamic": False}, kv_cache_scheme=FP8)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, ("none", "auto", "none")),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": FP8}, ("fp8", "fp8", "modelopt")),
        ({"quant_method": "modelopt", "quant_algo": "W8A8_SQ_PER_CHANNEL"}, ("int8", "auto", "modelopt")),
        ({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": 128}, ("int4", "auto", "modelopt")),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, ("nvfp4", "auto", "modelopt")),
        (DYNAMIC, ("fp8-dynamic", "auto", "compressed-tensors")),
        (STATIC, ("fp8", "fp8", "compressed-tensors")),
    ],
)
def test_known_schemes_are_understood(
    config: dict[str, Any] | None, expected: tuple[str, str, str], tmp_path: Path
) -> None:
    assert declared(config, tmp_path) == expected


def test_the_older_metadata_file_is_read(tmp_path: Path) -> None:
    fields = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(fields))
    assert declared(None, tmp_path) == ("nvfp4", "fp8", "modelopt")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq"}, "awq"),
        ({"quant_method": "bitsandbytes"}, "bitsandbytes"),
        ({"quant_method": "fp8"}, "'fp8'"),
        ({}, "None"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "MIXED_PRECISION"),
        ({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": 64}, "groups of 64"),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"}, "NVFP4"),
        ({**DYNAMIC, "format": "pack-quantized"}, "pack-quantized"),
        (compressed({**FP8, "strategy": "block"}, {**FP8, "strategy": "token", "dynamic": True}), "block"),
        (compressed({**FP8, "num_bits": 4, "strategy": "channel"}, {**FP8, "strategy": "token"}), "'num_bits': 4"),
        (compressed({**FP8, "strategy": "channel"}, {}), "inputs"),
        ({**DYNAMIC, "config_groups": {}}, "config_groups"),
        ({**STATIC, "kv_cache_scheme": {"num_bits": 4, "type": "int"}}, "kv_cache_scheme"),
    ],
)
def test_every_other_is_refused_by_name(config: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=named):
        declared(config, tmp_path)
