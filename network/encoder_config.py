"""Encoders of the BERT family: Hugging Face's config.json, checked, in ingot's words. Each field is honoured, harmless, or refused.

Follows transformers' configuration_{bert,roberta,xlm_roberta}.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ingot.errors import UnsupportedModelError
from ingot.network.families import HARMLESS, read_dtype
from ingot.network.fields import Fields

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}

# fmt: off
HARMLESS_HERE = (
    "attention_probs_dropout_prob", "hidden_dropout_prob", "classifier_dropout", "directionality", "output_past",
    "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type",
    "eos_token_id", "tie_word_embeddings",  # an encoder ends nothing, and its masked-language head is left out
)
# fmt: on


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFamily:
    """What sets a family apart."""

    architectures: tuple[str, ...]  # whose encoder is the whole model, or the whole of it that counts
    prefixes: tuple[str, ...]  # of its tensors' names
    offset_positions: bool  # RoBERTa counts positions from pad_token_id + 1
    max_position: int
    type_vocab_size: int
    layer_norm_eps: float


ENCODERS: Mapping[str, EncoderFamily] = {
    "bert": EncoderFamily(
        architectures=("BertModel", "BertForMaskedLM", "BertForPreTraining"),
        prefixes=("", "bert."),
        offset_positions=False,
        max_position=512,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
    ),
    "roberta": EncoderFamily(
        architectures=("RobertaModel", "RobertaForMaskedLM"),
        prefixes=("", "roberta."),
        offset_positions=True,
        max_position=512,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
    ),
    "xlm-roberta": EncoderFamily(
        architectures=("XLMRobertaModel", "XLMRobertaForMaskedLM"),
        prefixes=("", "roberta."),
        offset_positions=True,
        max_position=512,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Everything the encoder and its interpreters ask about a model."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    position_rows: int  # of the table of learned positions
    first_position: int  # the row of a text's first token
    type_vocab_size: int
    layer_norm_eps: float
    activation: str  # gelu | gelu_tanh | relu
    dtype: str  # of the checkpoint

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def max_position(self) -> int:
        """Tokens of the longest text."""
        return self.position_rows - self.first_position


def is_encoder(hf: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a family of this module."""
    return hf.get("model_type") in ENCODERS


def read_encoder(hf: Mapping[str, Any]) -> EncoderConfig:
    """Raises UnsupportedModelError naming the first field ingot cannot honour, CheckpointError where one is missing or malformed."""
    fields = Fields(hf, "config.json")
    name = fields.text("model_type")
    family = ENCODERS[name]
    refuse_what_changes_the_model(fields, family)
    heads, hidden = fields.integer("num_attention_heads", 12), fields.integer("hidden_size", 768)
    if hidden % heads:
        raise fields.unsupported("hidden_size", hidden, f"a multiple of num_attention_heads = {heads}")
    activation = fields.text("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise fields.unsupported("hidden_act", activation, ", ".join(ACTIVATIONS))
    pad = fields.integer("pad_token_id", 1 if family.offset_positions else 0, least=0)
    config = EncoderConfig(
        family=name,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", 3072),
        num_layers=fields.integer("num_hidden_layers", 12),
        num_heads=heads,
        position_rows=fields.integer("max_position_embeddings", family.max_position),
        first_position=pad + 1 if family.offset_positions else 0,
        type_vocab_size=fields.integer("type_vocab_size", family.type_vocab_size),
        layer_norm_eps=fields.positive("layer_norm_eps", family.layer_norm_eps),
        activation=ACTIVATIONS[activation],
        dtype=read_dtype(fields),
    )
    if config.max_position < 2:
        raise fields.unsupported("max_position_embeddings", config.position_rows, f"more than {pad + 2}")
    fields.ignore(*HARMLESS, *HARMLESS_HERE)
    fields.finish()
    return config


def refuse_what_changes_the_model(fields: Fields, family: EncoderFamily) -> None:
    """Features that transformers would act on, or that custom code hides behind; each is fine when it is off."""
    if "auto_map" in fields:
        raise UnsupportedModelError(
            "config.json has auto_map: the checkpoint brings its own code, which ingot never runs.",
            mend="Choose a checkpoint that transformers loads without remote code.",
        )
    architectures = fields.texts("architectures")
    if any(name not in family.architectures for name in architectures):
        raise fields.unsupported("architectures", architectures, ", ".join(family.architectures))
    fields.must_be("position_embedding_type", "absolute")
    for switch in ("is_encoder_decoder", "add_cross_attention", "is_decoder", "tie_encoder_decoder"):
        fields.must_be(switch, False)
    fields.must_be("cross_attention_hidden_size", 0)
    fields.must_be("pruned_heads", {})
