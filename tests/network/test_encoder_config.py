"""config.json of the BERT family: read as transformers reads it, or refused by the field's name."""

from __future__ import annotations

from typing import Any

import pytest

from ingot.errors import CheckpointError, UnsupportedModelError
from ingot.network.encoder_config import is_encoder, read_encoder

BERT: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 100,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.1,
    "classifier_dropout": None,
}


def test_bert_counts_positions_from_0_and_roberta_from_behind_its_padding() -> None:
    bert = read_encoder(BERT)
    assert (bert.first_position, bert.max_position, bert.head_dim) == (0, 40, 8)
    roberta = read_encoder({**BERT, "model_type": "roberta", "architectures": ["RobertaModel"], "pad_token_id": 1})
    assert (roberta.first_position, roberta.max_position) == (2, 38)


def test_what_is_left_out_is_as_transformers_has_it() -> None:
    import transformers

    for name, kind in (("bert", "BertConfig"), ("roberta", "RobertaConfig"), ("xlm-roberta", "XLMRobertaConfig")):
        theirs = getattr(transformers, kind)()
        ours = read_encoder({"model_type": name, "vocab_size": theirs.vocab_size})
        for field, own in (
            ("hidden_size", ours.hidden_size),
            ("intermediate_size", ours.intermediate_size),
            ("num_hidden_layers", ours.num_layers),
            ("num_attention_heads", ours.num_heads),
            ("max_position_embeddings", ours.position_rows),
            ("type_vocab_size", ours.type_vocab_size),
            ("layer_norm_eps", ours.layer_norm_eps),
            ("hidden_act", ours.activation),
        ):
            assert getattr(theirs, field) == own, (name, field)
        assert ours.first_position == (theirs.pad_token_id + 1 if name != "bert" else 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("hidden_act", "silu"),
        ("architectures", ["BertForSequenceClassification"]),
        ("hidden_size", 30),
        ("pruned_heads", {"0": [1]}),
        ("auto_map", {"AutoModel": "evil.py"}),
        ("new_feature", 1),
    ],
)
def test_what_changes_the_model_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=field):
        read_encoder({**BERT, field: value})


def test_malformed_fields_are_named() -> None:
    with pytest.raises(CheckpointError, match="hidden_size"):
        read_encoder({**BERT, "hidden_size": "big"})
    with pytest.raises(CheckpointError, match="vocab_size"):
        read_encoder({"model_type": "bert"})


def test_which_families_are_encoders() -> None:
    assert is_encoder(BERT)
    assert not is_encoder({"model_type": "llama"})
    assert not is_encoder({})
