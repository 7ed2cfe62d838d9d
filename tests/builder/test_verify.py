"""Verification: zero for the same model, and where one layer is damaged, that layer is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ingot.builder.checkpoint import open_checkpoint
from ingot.builder.corpus import load_corpus, read_documents, token_sequences
from ingot.builder.layerwise import LayerwiseModel, OriginalWeights, PackedWeights
from ingot.builder.pack import Packer, pack
from ingot.builder.quality import judge
from ingot.builder.recipe import Bounds
from ingot.builder.verify import relative_error, token_figures
from ingot.errors import CheckpointError, QualityError, RecipeError
from ingot.network.config import ModelConfig
from ingot.plugins.load import read_weights
from ingot.plugins.score import Scorer

TEXTS = [list(range(40, 120)), list(range(200, 60, -3))]


@pytest.fixture(scope="module")
def packed(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    pack(packer_of(llama), folder, lambda amount: None)
    return folder


def packer_of(folder: Path) -> Packer:
    checkpoint = open_checkpoint(folder)
    return Packer(checkpoint=checkpoint, config=ModelConfig.from_hf(checkpoint.config), dtype=torch.float32)


def run(folder: Path, config: ModelConfig, **kwargs: torch.dtype) -> tuple[LayerwiseModel, list[list[torch.Tensor]]]:
    """A packed model stepped to its end, and the residuals after each layer."""
    model = LayerwiseModel(
        PackedWeights.open([folder], config),
        config,
        TEXTS,
        dtype=kwargs.get("dtype", torch.float32),
        kv_dtype=kwargs.get("kv_dtype", torch.float32),
    )
    steps = []
    for layer in range(config.num_layers):
        model.step(layer)
        steps.append(list(model.residuals))
    return model, steps


@pytest.mark.parametrize("kv_dtype", [torch.float32, torch.float8_e4m3fn])
def test_layer_by_layer_is_the_whole_decoder(packed: Path, llama: Path, kv_dtype: torch.dtype) -> None:
    config = packer_of(llama).config
    with torch.inference_mode():
        model, _ = run(packed, config, kv_dtype=kv_dtype)
        tensors = {k: v for path in packed.glob("*.safetensors") for k, v in load_file(path).items()}
        scorer = Scorer(config, read_weights(tensors, config), dtype=torch.float32, kv_dtype=kv_dtype)
        for index, text in enumerate(TEXTS):
            assert torch.allclose(model.logits(index), scorer.logits(text), atol=1e-4)


def test_the_original_read_directly_equals_the_packed_one(packed: Path, llama: Path) -> None:
    packer = packer_of(llama)
    with torch.inference_mode():
        model, _ = run(packed, packer.config)
        original = LayerwiseModel(
            OriginalWeights(packer), packer.config, TEXTS, dtype=torch.float32, kv_dtype=torch.float32
        )
        for layer in range(packer.config.num_layers):
            original.step(layer)
        figures = token_figures(TEXTS, model, original)
    assert figures["ppl_ratio"] == pytest.approx(1.0, abs=1e-6)
    assert figures["kl"] == pytest.approx(0.0, abs=1e-6)
    assert figures["agreement"] == 1.0
    assert figures["tokens"] == sum(map(len, TEXTS))


def test_a_damaged_layer_is_named_first(packed: Path, llama: Path, tmp_path: Path) -> None:
    config = packer_of(llama).config
    tensors = {k: v for path in packed.glob("*.safetensors") for k, v in load_file(path).items()}
    tensors["layers.1.down.weight"] = tensors["layers.1.down.weight"].roll(1, 0)
    save_file(tensors, tmp_path / "model.safetensors")
    with torch.inference_mode():
        sound, truth = run(packed, config)
        damaged, found = run(tmp_path, config)
        errors = [relative_error(a, b) for a, b in zip(found, truth, strict=True)]
        figures = {"reference": "the original", **token_figures(TEXTS, damaged, sound), "layer_errors": errors}
    assert errors[0] == 0.0
    assert errors[1] > 0.1
    with pytest.raises(QualityError, match=r"Worst layers by relative error.*: layers\.1 .*, layers\.0"):
        judge(figures, Bounds(ppl_ratio=1.01, kl=0.01, agreement=0.99), allow_loss=False)


def test_a_figure_that_is_not_a_number_is_past_every_bound() -> None:
    nan = float("nan")
    figures = {"reference": "r", "ppl_ratio": nan, "kl": nan, "agreement": nan, "layer_errors": [nan]}
    record = judge(figures, Bounds(ppl_ratio=9.0, kl=9.0, agreement=0.0), allow_loss=True)
    assert len(record["breaches"]) == 3


def test_text_comes_from_the_user_the_model_or_the_bundle(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("My text.")
    assert load_corpus("heldout", given=str(tmp_path / "mine.txt"), folder=llama).documents == ["My text."]
    assert load_corpus("heldout", given=None, folder=llama).origin == "heldout.jsonl of the model"
    bundled = load_corpus("heldout", given=None, folder=tmp_path)
    assert bundled.origin == "the bundled text"
    assert len(bundled.documents[0]) > 8000
    assert bundled.digest != load_corpus("calibration", given=None, folder=tmp_path).digest


def test_sequences_are_cut_and_drawn_evenly(llama: Path, tmp_path: Path) -> None:
    corpus = load_corpus("heldout", given=None, folder=tmp_path)
    whole = token_sequences(corpus, llama, length=100)
    assert sum(map(len, whole)) == len(corpus.documents[0].encode())
    some = token_sequences(corpus, llama, length=100, total=1000)
    assert len(some) == 10
    assert some[0] == whole[0]
    assert some[5] == whole[len(whole) // 2]
    assert len(token_sequences(corpus, llama, length=100, count=3)) == 3


@pytest.mark.parametrize("text", ["", '{"txt": "a"}', "[1]", "{"])
def test_bad_text_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(RecipeError):
        read_documents(tmp_path / "bad.jsonl")


def test_a_missing_tokenizer_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        token_sequences(load_corpus("heldout", given=None, folder=tmp_path), tmp_path, length=10)


def test_the_models_text_is_one_json_object_a_line(llama: Path) -> None:
    lines = (llama / "heldout.jsonl").read_text().splitlines()
    assert read_documents(llama / "heldout.jsonl") == [json.loads(line)["text"] for line in lines]
