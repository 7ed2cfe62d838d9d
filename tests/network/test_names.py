"""Canonical names against the names transformers gives a model's own tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from tests.checkpoints import CHECKPOINTS, save

from ingot.network.config import ModelConfig
from ingot.network.names import kv_scale_sources, sources


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_tensor_of_a_checkpoint_has_one_place(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    config = ModelConfig.from_hf(json.loads((tmp_path / "config.json").read_text()))
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        theirs = {key.rpartition(".")[0] for key in file.keys()}  # noqa: SIM118 (not a dict)
    modules = [module for group in sources(config).values() for module in group]
    assert sorted(modules) == sorted(theirs)


def test_fused_weights_keep_their_parts_in_order() -> None:
    config = ModelConfig(
        family="llama",
        vocab_size=8,
        hidden_size=4,
        intermediate_size=4,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=2,
        max_position=8,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
        windows=(0,),
    )
    found = sources(config)
    assert [module.rpartition(".")[2] for module in found["layers.0.qkv"]] == ["q_proj", "k_proj", "v_proj"]
    assert [module.rpartition(".")[2] for module in found["layers.0.gate_up"]] == ["gate_proj", "up_proj"]
    assert kv_scale_sources(3) == ("model.layers.3.self_attn.k_proj.k_scale", "model.layers.3.self_attn.v_proj.v_scale")
