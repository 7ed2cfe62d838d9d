"""Small random checkpoints of the BERT family, as sentence-transformers would save them."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WORDS = [
    "the",
    "boat",
    "boats",
    "goes",
    "out",
    "before",
    "it",
    "is",
    "light",
    "by",
    "noon",
    "they",
    "are",
    "back",
    "sea",
]
SPECIAL = {
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
}
# name -> (configuration class of transformers, its model class, its fields beyond SMALL)
ENCODERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertModel", {"pad_token_id": 0, "max_position_embeddings": 64}),
    "bert-tanh": ("BertConfig", "BertForMaskedLM", {"pad_token_id": 0, "hidden_act": "gelu_new"}),
    "roberta": ("RobertaConfig", "RobertaModel", {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaForMaskedLM", {"pad_token_id": 1, "type_vocab_size": 1}),
}
SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 66,
    "initializer_range": 0.15,
}


def write_encoder(
    name: str, folder: Path, *, pooling: str | None = "mean", normalize: bool = True, max_length: int | None = None
) -> Any:
    """Writes the checkpoint `name` into `folder`; returns transformers' model of it. No sentence files where pooling is None."""
    import transformers

    config_kind, model_kind, fields = ENCODERS[name]
    size = write_tokenizer(folder, "roberta" if "roberta" in name else "bert")
    torch.manual_seed(len(name))
    config = getattr(transformers, config_kind)(**SMALL | fields | {"vocab_size": size})
    model = getattr(transformers, model_kind)(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias") or "Norm" in key:
                parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    if pooling is not None:
        write_sentence_files(folder, pooling, normalize=normalize, max_length=max_length)
    return model


def write_tokenizer(folder: Path, style: str) -> int:
    """Words, and letters for the rest. Returns the vocabulary's size."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = list(string.ascii_lowercase + string.digits + string.punctuation)
    pieces = [*SPECIAL[style], *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    cls, sep, unknown = ("[CLS]", "[SEP]", "[UNK]") if style == "bert" else ("<s>", "</s>", "<unk>")
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", special_tokens=[(cls, vocab[cls]), (sep, vocab[sep])]
    )
    tokenizer.add_special_tokens(SPECIAL[style])
    tokenizer.enable_truncation(16)  # as sentence-transformers leaves it; the server has its own limit
    tokenizer.save(str(folder / "tokenizer.json"))
    return len(pieces)


def write_sentence_files(folder: Path, pooling: str, *, normalize: bool, max_length: int | None) -> None:
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {"cls": "cls_token", "mean": "mean_tokens", "last": "lasttoken", "max": "max_tokens"}
    fields = {f"pooling_mode_{mode}": name == pooling for name, mode in modes.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 48, **fields}))
    length = {"max_seq_length": max_length, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(length))


def true_vector(model: Any, token_ids: list[int], pooling: str) -> torch.Tensor:
    """transformers' own hidden states of one text, pooled; not scaled."""
    body = getattr(model, model.base_model_prefix, model)
    with torch.inference_mode():
        states = body(torch.tensor([token_ids])).last_hidden_state[0]
    return {"mean": states.mean(0), "last": states[-1], "cls": states[0]}[pooling]
