"""A random checkpoint in FP8 is what ModelOpt exports: the builder reads it, and finds the weights that went in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner

from ingot.builder.checkpoint import Checkpoint, open_checkpoint
from ingot.builder.pack import Packer
from ingot.builder.quantize.declared import read_declared
from ingot.network.weights import LINEARS, Scheme
from ingot.plugins.linear.reference import dequantize
from ingot.plugins.load import read_weights
from ingot.plugins.random_weights import FP8_INPUT_SCALES, quantized_weights
from ingot.runtime.bench.subject import read_config

Module = Callable[[str], ModuleType]


def test_the_builder_reads_the_random_weights_that_were_written(
    module: Module, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, config, out = module("random_checkpoint"), read_config(llama), tmp_path / "out"
    weights = quantized_weights(config, "fp8", torch.bfloat16, torch.device("cpu"))
    monkeypatch.setattr(script, "quantized_weights", lambda *_: weights)
    CliRunner().invoke(script.main, [str(llama), "-o", str(out), "--quant", "fp8"], catch_exceptions=False)
    checkpoint = open_checkpoint(out)
    declared = read_declared(checkpoint)
    assert (declared.quant, declared.kv, declared.method) == ("fp8", "fp8", "modelopt")
    packer = Packer(checkpoint, config, torch.bfloat16)
    tensors = {name: tensor for _, read in packer.groups() for name, tensor in read().items()}
    assert packer.unread() == []
    found = read_weights(tensors, config)
    assert found.keys() - weights.keys() == {f"layers.{layer}.kv_scale" for layer in range(config.num_layers)}
    for name, weight in weights.items():
        assert dequantize(found[name]).equal(dequantize(weight)), name
    for kind in LINEARS:
        linear = found[f"layers.1.{kind}"]
        assert linear.scheme is Scheme.FP8
        assert linear.input_scale is not None
        assert float(linear.input_scale) == pytest.approx(FP8_INPUT_SCALES[kind])
    assert found["layers.1.kv_scale"].data.tolist() == [1.0, 1.0]


def test_both_of_modelopts_declarations_say_the_same(module: Module, llama: Path) -> None:
    module("random_checkpoint").declare_fp8(llama)
    config = json.loads((llama / "config.json").read_text())
    declared = config.pop("quantization_config")
    assert (
        declared["ignore"]
        == json.loads((llama / "hf_quant_config.json").read_text())["quantization"]["exclude_modules"]
    )
    both = [
        Checkpoint(folder=llama, config=config, tensors={}),
        Checkpoint(folder=llama, config={"quantization_config": declared}, tensors={}),
    ]
    assert read_declared(both[0]) == read_declared(both[1])
