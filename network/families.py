"""Hugging Face's config.json to ModelConfig, family by family: each field is honoured, known to be harmless, or refused.

Follows transformers' configuration_{llama,mistral,qwen2,qwen3}.py, both the spellings of version 4 and of version 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ingot.errors import UnsupportedModelError
from ingot.network.config import Llama3Rope, ModelConfig
from ingot.network.fields import Fields

DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What sets a family apart, and transformers' defaults for what its config.json may leave out."""

    architecture: str
    max_position: int
    num_kv_heads: int | None = None  # None: as many as query heads
    head_dim: int | None = None  # None: hidden_size / num_attention_heads
    qkv_bias: bool = False  # where there is no attention_bias field
    qk_norm: bool = False
    attention_bias: bool = False  # has the field, which means biases on q, k, v and o
    per_layer_windows: bool = False  # use_sliding_window, max_window_layers, layer_types
    window: int = 0  # where sliding_window is left out


FAMILIES: Mapping[str, Family] = {
    "llama": Family(architecture="LlamaForCausalLM", max_position=2048, attention_bias=True),
    "mistral": Family(architecture="MistralForCausalLM", max_position=131072, num_kv_heads=8, window=4096),
    "qwen2": Family(
        architecture="Qwen2ForCausalLM",
        max_position=32768,
        num_kv_heads=32,
        qkv_bias=True,
        per_layer_windows=True,
        window=4096,
    ),
    "qwen3": Family(
        architecture="Qwen3ForCausalLM",
        max_position=32768,
        num_kv_heads=32,
        head_dim=128,
        qk_norm=True,
        attention_bias=True,
        per_layer_windows=True,
        window=4096,
    ),
}

# Fields that do not change what an engine computes: training, bookkeeping, defaults of generate(), and what other modules read.
# fmt: off
HARMLESS = (
    "_name_or_path", "name_or_path", "_attn_implementation", "_attn_implementation_autoset", "attn_implementation",
    "_commit_hash", "transformers_version", "transformers.js_config", "unsloth_version", "unsloth_fixed",
    "initializer_range", "use_cache", "attention_dropout", "hidden_dropout", "bos_token_id", "pad_token_id",
    "sep_token_id", "id2label", "label2id", "num_labels", "problem_type", "return_dict", "output_attentions",
    "output_hidden_states", "output_scores", "return_dict_in_generate", "torchscript", "use_bfloat16",
    "chunk_size_feed_forward", "finetuning_task", "task_specific_params", "tokenizer_class", "prefix",
    "tf_legacy_loss", "gradient_checkpointing", "is_llama_config",
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "suppress_tokens", "begin_suppress_tokens",
    "exponential_decay_length_penalty",
    "quantization_config",  # the builder reads it
)
# fmt: on


def read_hf(hf: Mapping[str, Any]) -> ModelConfig:
    """ModelConfig of a config.json. Raises UnsupportedModelError naming the first field ingot cannot honour,
    CheckpointError where a field is missing or malformed."""
    fields = Fields(hf, "config.json")
    name = fields.text("model_type", "(none)")
    if name not in FAMILIES:
        raise UnsupportedModelError(
            f"config.json has model_type = {name!r}; ingot knows {', '.join(sorted(FAMILIES))} and, of encoders, "
            "bert, roberta and xlm-roberta.",
            mend="Choose a checkpoint of one of these families.",
        )
    family = FAMILIES[name]
    refuse_what_changes_the_model(fields, family)
    num_layers = fields.integer("num_hidden_layers")
    num_heads = fields.integer("num_attention_heads")
    num_kv_heads = read_kv_heads(fields, family, num_heads)
    theta, scaling = read_rope(fields)
    bias = fields.flag("attention_bias", False) if family.attention_bias else False
    config = ModelConfig(
        family=name,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=fields.integer("hidden_size"),
        intermediate_size=fields.integer("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=read_head_dim(fields, family, num_heads),
        max_position=fields.integer("max_position_embeddings", family.max_position),
        rms_norm_eps=fields.positive("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        windows=read_windows(fields, family, num_layers),
        qkv_bias=bias or family.qkv_bias,
        o_bias=bias,
        qk_norm=family.qk_norm,
        tie_embeddings=fields.flag("tie_word_embeddings", False),
        dtype=read_dtype(fields),
        eos_token_ids=fields.integers("eos_token_id"),
    )
    fields.ignore(*HARMLESS)
    fields.finish()
    return config


def refuse_what_changes_the_model(fields: Fields, family: Family) -> None:
    """Features that transformers would act on, or that custom code hides behind; each is fine when it is off."""
    if "auto_map" in fields:
        raise UnsupportedModelError(
            f"config.json has auto_map: the checkpoint brings its own code, which ingot never runs; it knows "
            f"{family.architecture} by itself.",
            mend="Choose a checkpoint that transformers loads without remote code.",
        )
    architectures = fields.texts("architectures")
    if architectures and architectures != [family.architecture]:
        raise fields.unsupported("architectures", architectures, repr([family.architecture]))
    fields.must_be("hidden_act", "silu", "swish")
    fields.must_be("pretraining_tp", 1)
    fields.must_be("partial_rotary_factor", 1.0)
    for switch in ("mlp_bias", "is_encoder_decoder", "add_cross_attention", "is_decoder", "tie_encoder_decoder"):
        fields.must_be(switch, False)
    fields.must_be("rope_interleaved", False)
    fields.must_be("cross_attention_hidden_size", 0)
    fields.must_be("attn_logit_softcapping", 0)
    fields.must_be("final_logit_softcapping", 0)
    fields.must_be("num_experts", 0)
    fields.must_be("pruned_heads", {})
    fields.must_be("num_local_experts", 0, 1)
    for part in ("vision_config", "audio_config", "text_config", "per_layer_config"):
        if fields.table(part):
            raise fields.unsupported(part, fields.table(part), "text models with one configuration for all layers")
    if not family.attention_bias:
        fields.must_be("attention_bias", family.qkv_bias)


def read_kv_heads(fields: Fields, family: Family, num_heads: int) -> int:
    default = num_heads if fields.is_null("num_key_value_heads") else family.num_kv_heads or num_heads
    num_kv_heads = fields.integer("num_key_value_heads", default)
    if num_heads % num_kv_heads:
        raise fields.unsupported("num_key_value_heads", num_kv_heads, f"a divisor of num_attention_heads = {num_heads}")
    return num_kv_heads


def read_head_dim(fields: Fields, family: Family, num_heads: int) -> int:
    hidden_size = fields.integer("hidden_size")
    head_dim = fields.integer("head_dim", family.head_dim or max(1, hidden_size // num_heads))
    if "head_dim" not in fields and family.head_dim is None and hidden_size % num_heads:
        raise fields.unsupported("hidden_size", hidden_size, f"a multiple of num_attention_heads = {num_heads}")
    if head_dim % 2:
        raise fields.unsupported("head_dim", head_dim, "even numbers, since RoPE turns pairs")
    return head_dim


def read_rope(fields: Fields) -> tuple[float, Llama3Rope | None]:
    """Base and scaling, from transformers 5's rope_parameters or from rope_theta and rope_scaling before it."""
    spelling = "rope_parameters" if fields.table("rope_parameters") else "rope_scaling"
    rope = Fields(fields.table(spelling), f"{spelling} in config.json")
    theta = rope.positive("rope_theta", fields.positive("rope_theta", 10000.0))
    rope.must_be("partial_rotary_factor", 1.0)
    kind = rope.text("rope_type", rope.text("type", "default"))
    rope.ignore("type")
    if kind == "default":
        scaling = None
    elif kind == "llama3":
        scaling = Llama3Rope(
            factor=rope.positive("factor"),
            low_freq_factor=rope.positive("low_freq_factor"),
            high_freq_factor=rope.positive("high_freq_factor"),
            original_max_position=rope.integer("original_max_position_embeddings"),
        )
    else:
        raise rope.unsupported("rope_type", kind, "'default', 'llama3'")
    fields.table("rope_scaling")
    rope.finish()
    return theta, scaling


def read_windows(fields: Fields, family: Family, num_layers: int) -> tuple[int, ...]:
    """Sliding window of each layer, 0 = full attention."""
    if not family.per_layer_windows:
        default = 0 if fields.is_null("sliding_window") else family.window
        window = fields.integer("sliding_window") if "sliding_window" in fields else default
        if window and not family.window:
            raise fields.unsupported("sliding_window", window, f"null, as in every {family.architecture}")
        kinds = ["sliding_attention" if window else "full_attention"] * num_layers
        if fields.texts("layer_types") not in ([], kinds):
            raise fields.unsupported("layer_types", fields.texts("layer_types"), f"{kinds[0]!r} for every layer")
        return (window,) * num_layers
    slides = fields.flag("use_sliding_window", False) and not fields.is_null("sliding_window")
    window = fields.integer("sliding_window", family.window)
    first = fields.integer("max_window_layers", 28, least=0)
    kinds = fields.texts("layer_types") or [
        "sliding_attention" if slides and layer >= first else "full_attention" for layer in range(num_layers)
    ]
    if len(kinds) != num_layers or not set(kinds) <= {"full_attention", "sliding_attention"}:
        raise fields.unsupported("layer_types", kinds, f"{num_layers} of 'full_attention' or 'sliding_attention'")
    if "sliding_attention" in kinds and not slides:
        raise fields.unsupported("layer_types", kinds, "'full_attention' only where use_sliding_window is false")
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def read_dtype(fields: Fields) -> str:
    """The checkpoint's dtype; transformers 4 calls it torch_dtype. Checkpoints older than both fields are float32."""
    name = fields.text("dtype", fields.text("torch_dtype", "float32")).removeprefix("torch.")
    if name not in DTYPES:
        raise fields.unsupported("dtype", name, ", ".join(DTYPES))
    return name
