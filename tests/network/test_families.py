"""config.json, field by field: honoured, known to be harmless, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from ingot.errors import CheckpointError, UnsupportedModelError
from ingot.network.config import Llama3Rope, ModelConfig
from ingot.network.families import FAMILIES, HARMLESS

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
    "eos_token_id": [2, 5],
}
ROPE = {"factor": 8, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def read(family: str = "llama", **changes: Any) -> ModelConfig:
    kind = {"model_type": family, "architectures": [FAMILIES[family].architecture]}
    return ModelConfig.from_hf(LLAMA | kind | changes)


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in LLAMA.items() if name not in names}


def test_every_field_of_a_llama() -> None:
    assert read() == ModelConfig(
        family="llama",
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        max_position=256,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        windows=(0, 0, 0),
        dtype="bfloat16",
        eos_token_ids=(2, 5),
    )


def test_both_spellings_say_the_same() -> None:
    old = read(torch_dtype="float16", rope_theta=5e5, rope_scaling={"rope_type": "llama3", **ROPE})
    new = ModelConfig.from_hf(
        without("torch_dtype")
        | {"dtype": "float16", "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **ROPE}}
    )
    assert old == new
    assert old.rope_theta == 5e5
    assert old.rope_scaling == Llama3Rope(factor=8, low_freq_factor=1, high_freq_factor=4, original_max_position=8192)
    assert read(rope_scaling={"type": "default"}) == read(rope_scaling=None) == read()


def test_biases() -> None:
    assert (read().qkv_bias, read().o_bias) == (False, False)
    biased = read(attention_bias=True)
    assert (biased.qkv_bias, biased.o_bias) == (True, True)
    assert (read("qwen2").qkv_bias, read("qwen2").o_bias) == (True, False)
    assert (read("qwen3").qkv_bias, read("qwen3").qk_norm) == (False, True)
    assert read("qwen3", attention_bias=True).o_bias
    assert not read("mistral").qkv_bias


def test_what_may_be_left_out() -> None:
    bare = ModelConfig.from_hf(without("num_key_value_heads", "torch_dtype", "rms_norm_eps", "eos_token_id"))
    assert (bare.num_kv_heads, bare.dtype, bare.rms_norm_eps, bare.eos_token_ids) == (4, "float32", 1e-6, ())
    assert read(num_key_value_heads=None).num_kv_heads == 4
    assert read(head_dim=None).head_dim == 16
    assert read(head_dim=24).head_dim == 24
    assert read("qwen3").head_dim == 128
    assert read(eos_token_id=7).eos_token_ids == (7,)
    assert read(tie_word_embeddings=True).tie_embeddings


@pytest.mark.parametrize(
    ("family", "fields", "windows"),
    [
        ("mistral", {"sliding_window": 32}, (32, 32, 32)),
        ("mistral", {"sliding_window": None}, (0, 0, 0)),
        ("mistral", {}, (4096, 4096, 4096)),
        ("llama", {"sliding_window": None}, (0, 0, 0)),
        ("qwen2", {"sliding_window": 32, "max_window_layers": 1}, (0, 0, 0)),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1}, (0, 32, 32)),
        ("qwen2", {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 1}, (0, 0, 0)),
        ("qwen2", {"use_sliding_window": True}, (0, 0, 0)),
        (
            "qwen3",
            {
                "use_sliding_window": True,
                "sliding_window": 16,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            },
            (16, 0, 16),
        ),
    ],
)
def test_sliding_windows(family: str, fields: dict[str, Any], windows: tuple[int, ...]) -> None:
    assert read(family, **fields).windows == windows


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("auto_map", {"AutoModelForCausalLM": "modeling_x.X"}),
        ("architectures", ["LlamaForSequenceClassification"]),
        ("hidden_act", "gelu"),
        ("mlp_bias", True),
        ("pretraining_tp", 2),
        ("partial_rotary_factor", 0.5),
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("num_experts", 8),
        ("num_local_experts", 8),
        ("vision_config", {"hidden_size": 8}),
        ("per_layer_config", {"0": {"head_dim": 8}}),
        ("is_encoder_decoder", True),
        ("rope_interleaved", True),
        ("sliding_window", 128),
        ("layer_types", ["sliding_attention"] * 3),
        ("num_key_value_heads", 3),
        ("head_dim", 15),
        ("torch_dtype", "float64"),
        ("mystery", 1),
        ("rope_type", "yarn"),
    ],
)
def test_what_ingot_cannot_honour_is_named(field: str, value: Any) -> None:
    changes = {"rope_scaling": {field: value, "factor": 4.0}} if field == "rope_type" else {field: value}
    with pytest.raises(UnsupportedModelError) as caught:
        read(**changes)
    assert field.removeprefix("torch_") in caught.value.message
    assert field == "auto_map" or str(value)[:20] in caught.value.message
    assert caught.value.mend


def test_what_is_off_is_not_refused() -> None:
    off: dict[str, Any] = {
        "mlp_bias": False,
        "pretraining_tp": 1,
        "partial_rotary_factor": 1.0,
        "num_local_experts": 1,
        "auto_map": None,
        "vision_config": None,
        "sliding_window": None,
        "mystery": None,
    }
    assert read(**off | dict.fromkeys(HARMLESS, "anything")) == read()


def test_other_settings_inside_rope_are_named_too() -> None:
    with pytest.raises(UnsupportedModelError, match="mscale"):
        read(rope_scaling={"rope_type": "llama3", **ROPE, "mscale": 2.0})
    with pytest.raises(CheckpointError, match="low_freq_factor"):
        read(rope_scaling={"rope_type": "llama3", "factor": 8.0})


@pytest.mark.parametrize("layer_types", [["full_attention"], ["sliding_attention"] * 3, ["chunked_attention"] * 3])
def test_layer_types_that_contradict_are_refused(layer_types: list[str]) -> None:
    with pytest.raises(UnsupportedModelError, match="layer_types"):
        read("qwen3", layer_types=layer_types)


def test_unknown_families_are_named_with_those_known() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'mixtral'; ingot knows llama, mistral, qwen2, qwen3 and"):
        ModelConfig.from_hf(LLAMA | {"model_type": "mixtral"})
    with pytest.raises(UnsupportedModelError, match="none"):
        ModelConfig.from_hf({})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", "512"),
        ("hidden_size", 0),
        ("num_hidden_layers", True),
        ("rms_norm_eps", -1),
        ("rope_theta", float("nan")),
        ("eos_token_id", "</s>"),
        ("tie_word_embeddings", 1),
        ("architectures", "LlamaForCausalLM"),
        ("rope_scaling", "llama3"),
        ("intermediate_size", None),
    ],
)
def test_malformed_and_missing_fields_are_the_checkpoints_fault(field: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=field):
        read(**{field: value})
