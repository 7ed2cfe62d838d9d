"""Every quantization scheme end to end on a small random Llama. One module, since importing ModelOpt takes seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ingot.builder.build import build_engine
from ingot.builder.checkpoint import open_checkpoint
from ingot.builder.recipe import QUANTS, Recipe
from ingot.errors import QualityError
from ingot.manifest import Manifest, check_files, read_manifest
from ingot.network.config import ModelConfig
from ingot.network.names import sources
from ingot.network.weights import LINEARS, Weight
from ingot.plugins.linear.reference import dequantize
from ingot.plugins.load import read_weights
from ingot.plugins.quantize.reference import E2M1_VALUES

QUANTIZED = [quant for quant in QUANTS if quant != "none"]


@dataclass(frozen=True, kw_only=True)
class Built:
    engine: Path
    exported: Path
    manifest: Manifest


def weights_in(engine: Path) -> dict[str, torch.Tensor]:
    return {k: v for path in (engine / "weights").glob("*.safetensors") for k, v in load_file(path).items()}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def recipe(model: Path, out: Path, quant: str, *, kv: str = "fp8", allow: bool = True) -> Recipe:
    return Recipe(
        model=str(model),
        out=str(out),
        quant=quant,
        kv=kv,
        target="cpu",
        calibration_samples=2,
        calibration_length=64,
        verify_tokens=128,
        allow_quality_loss=allow,
    )


@pytest.fixture(scope="module")
def built(llama: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """The engine of a scheme and its exported checkpoint, built once."""
    root = tmp_path_factory.mktemp("engines")
    done: dict[str, Built] = {}

    def get(quant: str) -> Built:
        if quant not in done:
            out, export = root / quant, root / f"{quant}-checkpoint"
            engine = build_engine(recipe(llama, out, quant), cache=cache, export=export)
            done[quant] = Built(engine=engine, exported=export, manifest=read_manifest(engine))
        return done[quant]

    return get


@pytest.mark.parametrize("quant", QUANTIZED)
def test_a_build_of_each_scheme_is_an_engine(built: Callable[[str], Built], quant: str, llama: Path) -> None:
    found = built(quant)
    check_files(found.engine, found.manifest)
    assert found.manifest.recipe["quant"] == quant
    assert found.manifest.kv_dtype == "float8_e4m3fn"
    weights = read_weights(
        weights_in(found.engine), ModelConfig.from_hf(json.loads((llama / "config.json").read_text()))
    )
    assert weights["layers.0.qkv"].scheme == quant.removesuffix("-dynamic")
    assert (weights["layers.0.qkv"].input_scale is not None) == (quant in ("fp8", "int8", "nvfp4"))
    assert weights["layers.1.kv_scale"].data.shape == (2,)


@pytest.mark.parametrize("quant", QUANTIZED)
def test_quality_is_near_the_original(built: Callable[[str], Built], quant: str) -> None:
    quality = built(quant).manifest.quality
    assert quality is not None
    assert quality["reference"] == "the unquantized checkpoint in float32"
    # Far below what a mistake in a scale or a layout gives (measured: above 1), well above rounding.
    assert 0 < quality["kl"] < 0.2
    assert 0 < max(quality["layer_errors"]) < 0.35


@pytest.mark.parametrize("quant", QUANTIZED)
def test_given_back_the_export_packs_to_the_same_weights(
    built: Callable[[str], Built], quant: str, cache: Path, tmp_path: Path
) -> None:
    found = built(quant)
    again = build_engine(recipe(found.exported, tmp_path / "again", "none"), cache=cache)
    manifest = read_manifest(again)
    assert manifest.recipe["quant"] == quant
    assert manifest.source["quantized_as"] == quant
    assert manifest.quality is not None
    assert "came quantized" in manifest.quality["reference"]
    ours, theirs = weights_in(again), weights_in(found.engine)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        # KV scales that ingot measures itself are sums of products, whose last bit depends on the memory's alignment.
        exact = not name.endswith("kv_scale") or quant != "fp8-dynamic"
        assert torch.equal(tensor, theirs[name]) if exact else torch.allclose(tensor, theirs[name], rtol=1e-5), name


@pytest.mark.parametrize("quant", QUANTIZED)
def test_packed_weights_mean_what_the_checkpoint_means(built: Callable[[str], Built], quant: str) -> None:
    """Folded norms aside: value * pre_scale of the export equals value * pre_scale * norm of the engine / its own norm."""
    found = built(quant)
    config = ModelConfig.from_hf(json.loads((found.exported / "config.json").read_text()))
    theirs = load_file_all(found.exported)
    ours = read_weights(weights_in(found.engine), config)
    for name, modules in sources(config).items():
        kind = name.rpartition(".")[2]
        if kind not in LINEARS:
            continue
        expected = torch.cat([module_values(theirs, module) for module in modules])
        assert torch.allclose(values(ours[name], norm_ratio(ours, theirs, name)), expected, rtol=1e-5, atol=1e-7), name


def load_file_all(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(folder)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def values(weight: Weight[torch.Tensor], ratio: torch.Tensor) -> torch.Tensor:
    return dequantize(weight) * (1.0 if weight.pre_scale is None else weight.pre_scale) * ratio


def norm_ratio(ours: dict[str, Weight[torch.Tensor]], theirs: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """What folding multiplied the norm before a linear by; 1 where none precedes it."""
    prefix, _, kind = name.rpartition(".")
    norms = {"qkv": ("input_norm", "input_layernorm"), "gate_up": ("post_norm", "post_attention_layernorm")}
    if kind not in norms:
        return torch.ones(())
    mine, hf = norms[kind]
    return ours[f"{prefix}.{mine}"].data / theirs[f"model.{prefix}.{hf}.weight"].float()


def module_values(tensors: dict[str, torch.Tensor], module: str) -> torch.Tensor:
    """float32 (N, K) of an exported module, from ModelOpt's layouts, written independently of the builder."""
    weight, scale = tensors[f"{module}.weight"], tensors[f"{module}.weight_scale"]
    if weight.dtype == torch.uint8 and f"{module}.weight_scale_2" in tensors:
        table = torch.tensor([*E2M1_VALUES, *(-value for value in E2M1_VALUES)])
        codes = torch.empty(weight.shape[0], 2 * weight.shape[1], dtype=torch.int)
        codes[:, 0::2], codes[:, 1::2] = weight & 15, weight >> 4
        found = table[codes] * (scale.float() * tensors[f"{module}.weight_scale_2"]).repeat_interleave(16, 1)
    elif weight.dtype == torch.uint8:
        rows = torch.empty(2 * weight.shape[0], weight.shape[1], dtype=torch.int)
        rows[0::2], rows[1::2] = weight & 15, weight >> 4
        found = torch.where(rows > 7, rows - 16, rows) * scale.repeat_interleave(128, 1)
    else:
        found = weight.float() * scale.reshape(-1, 1)
    return found * tensors.get(f"{module}.pre_quant_scale", torch.ones(())).float()


def test_unquantized_equals_transformers(llama: Path, cache: Path, tmp_path: Path) -> None:
    engine = build_engine(recipe(llama, tmp_path / "plain", "none", kv="auto", allow=False), cache=cache)
    quality = read_manifest(engine).quality
    assert quality is not None
    assert quality["reference"] == "transformers' model in float32"
    assert quality["within_bounds"]
    assert quality["agreement"] == 1.0
    assert quality["kl"] < 1e-8
    assert max(quality["layer_errors"]) < 1e-5


def test_past_its_bound_a_build_fails_naming_the_worst_layers(llama: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "strict"
    strict: dict[str, Any] = {
        "model": str(llama),
        "out": str(out),
        "quant": "fp8-dynamic",
        "target": "cpu",
        "max_kl": 0.0,
        "verify_tokens": 128,
    }
    with pytest.raises(QualityError, match=r"mean KL divergence .* is above 0\.0.*Worst layers.*layers\.[01]"):
        build_engine(Recipe(**strict), cache=cache)
    assert not out.exists()
    quality = read_manifest(build_engine(Recipe(**strict, allow_quality_loss=True), cache=cache)).quality
    assert quality is not None
    assert quality["within_bounds"] is False
    assert quality["breaches"]
