"""Encoders from checkpoint to vectors: as transformers has them, with their sentence-transformers files honoured or refused."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.encoders import ENCODERS, true_vector, write_encoder

from ingot.builder.build import build_engine
from ingot.builder.progress import Reporter
from ingot.builder.recipe import Recipe
from ingot.builder.reverify import verify_engine
from ingot.errors import CheckpointError, EngineError, IngotError, QualityError, RecipeError, UnsupportedModelError
from ingot.manifest import Manifest, read_manifest
from ingot.runtime.llm import LLM
from ingot.runtime.load import load_executor
from ingot.runtime.messages import TokenChunk, TokenRequest
from ingot.runtime.params import SamplingParams

TEXTS = [[2, 5, 6, 7, 8, 9, 3], [2, 3], [2, 9, 9, 5, 3], [2, 5, 7, 6, 3], [2, *range(5, 40), 3]]


def build(folder: Path, **knobs: Any) -> Manifest:
    recipe = Recipe(**{"model": str(folder / "model"), "out": str(folder / "engine"), "verify_tokens": 256, **knobs})
    return read_manifest(build_engine(recipe, cache=folder / "cache"))


def vectors(engine: Path, poolings: list[str]) -> list[torch.Tensor]:
    executor = load_executor(engine)
    for number, (text, pooling) in enumerate(zip(TEXTS, poolings, strict=True)):
        executor.add(TokenRequest(request_id=str(number), token_ids=text, params=SamplingParams(), pooling=pooling))
    told = sorted(executor.step(), key=lambda one: one.request_id)
    assert all(isinstance(one, TokenChunk) and one.vector for one in told)
    return [torch.tensor(array("f", one.vector or b"")) for one in told if isinstance(one, TokenChunk)]


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_vectors_are_transformers_own(name: str, tmp_path: Path) -> None:
    """In one ragged step, by every pooling, within 1e-5 of values of about 1."""
    model = write_encoder(name, tmp_path / "model")
    manifest = build(tmp_path)
    assert manifest.tasks == ("embed",)
    assert manifest.quality is not None
    assert manifest.quality["cosine"] > 0.999999
    assert max(manifest.quality["layer_errors"]) < 1e-5
    poolings = ["mean", "last", "cls", "mean", "last"]
    for found, text, pooling in zip(vectors(tmp_path / "engine", poolings), TEXTS, poolings, strict=True):
        torch.testing.assert_close(found, true_vector(model, text, pooling), rtol=0, atol=1e-5)


def test_the_sentence_files_say_how_vectors_are_made(tmp_path: Path) -> None:
    write_encoder("bert", tmp_path / "model", pooling="cls", normalize=False, max_length=24)
    manifest = build(tmp_path)
    assert manifest.embedding is not None
    assert (manifest.embedding.pooling, manifest.embedding.normalize) == ("cls", False)
    assert (manifest.embedding.size, manifest.limits.max_model_len) == (48, 24)
    assert build(tmp_path, pooling="mean", max_model_len=32).limits.max_model_len == 32


def test_a_bare_checkpoint_is_pooled_by_the_mean(tmp_path: Path) -> None:
    write_encoder("roberta", tmp_path / "model", pooling=None)
    manifest = build(tmp_path)
    assert manifest.embedding is not None
    assert (manifest.embedding.pooling, manifest.embedding.normalize) == ("mean", True)
    assert manifest.limits.max_model_len == 64  # 66 rows of positions, of which text begins at the third


def test_verify_measures_again_and_sees_another_original(tmp_path: Path) -> None:
    write_encoder("bert", tmp_path / "model")
    manifest = build(tmp_path, dtype="bfloat16")
    again = verify_engine(tmp_path / "engine", manifest, model=None, reporter=Reporter.silent())
    assert again == manifest.quality
    (tmp_path / "model" / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    with pytest.raises(EngineError, match="content differs"):
        verify_engine(tmp_path / "engine", manifest, model=None, reporter=Reporter.silent())


def test_a_wrong_engine_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention to later tokens is what sets an encoder apart: without it the vectors stray."""
    write_encoder("bert", tmp_path / "model")
    from torch.nn import functional

    whole = functional.scaled_dot_product_attention
    monkeypatch.setattr(functional, "scaled_dot_product_attention", lambda q, k, v: whole(q, k, v, is_causal=True))
    with pytest.raises(QualityError, match="least cosine"):
        build(tmp_path)


def test_names_of_norms_from_tensorflows_time(tmp_path: Path) -> None:
    model = write_encoder("bert", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = {replaced(name, old): tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    build(tmp_path, allow_quality_loss=True)
    found = vectors(tmp_path / "engine", ["mean"] * len(TEXTS))
    torch.testing.assert_close(found[0], true_vector(model, TEXTS[0], "mean"), rtol=0, atol=1e-5)


def replaced(name: str, by: dict[str, str]) -> str:
    for theirs, other in by.items():
        name = name.replace(theirs, other)
    return name


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"target": "cuda"}, "--target cpu"),
        ({"target": "tensorrt-rtx"}, "--target cpu"),
        ({"quant": "fp8"}, "--quant"),
        ({"kv": "fp8"}, "--kv"),
        ({"max_kl": 0.1}, "--max-kl"),
        ({"calibration": "x.txt"}, "--calibration"),
        ({"max_model_len": 65}, "64 positions"),
        ({"max_num_batched_tokens": 8, "max_num_seqs": 4}, "reads at once"),
    ],
)
def test_options_that_say_nothing_to_an_encoder(knobs: dict[str, Any], words: str, tmp_path: Path) -> None:
    write_encoder("bert", tmp_path / "model")
    with pytest.raises(RecipeError, match=words):
        build(tmp_path, **knobs)


def no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def extra_tensor(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    save_file({**tensors, "adapter.weight": torch.ones(2)}, model / "model.safetensors", metadata={"format": "pt"})


def fewer_words(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "vocab_size": 50}))


def dense_module(model: Path) -> None:
    modules = json.loads((model / "modules.json").read_text())
    modules.insert(2, {"path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (model / "modules.json").write_text(json.dumps(modules))


def max_pooling(model: Path) -> None:
    (model / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))


def default_prompt(model: Path) -> None:
    (model / "config_sentence_transformers.json").write_text(json.dumps({"default_prompt_name": "query"}))


def path_outside(model: Path) -> None:
    modules = json.loads((model / "modules.json").read_text())
    modules[1]["path"] = "../../outside/1_Pooling_of_another"
    (model / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (no_tokenizer, CheckpointError, "tokenizer.json"),
        (extra_tensor, CheckpointError, "adapter.weight"),
        (fewer_words, CheckpointError, "embed.weight"),
        (dense_module, UnsupportedModelError, "Dense"),
        (max_pooling, UnsupportedModelError, "pooling_mode_max_tokens"),
        (default_prompt, UnsupportedModelError, "default_prompt_name"),
        (path_outside, CheckpointError, "1_Pooling_of_another"),
    ],
)
def test_checkpoints_it_cannot_honour(
    spoil: Callable[[Path], None], error: type[IngotError], words: str, tmp_path: Path
) -> None:
    write_encoder("bert", tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(error, match=words):
        build(tmp_path)
    assert not (tmp_path / "engine").exists()


def test_an_encoder_is_no_language_model(tmp_path: Path) -> None:
    write_encoder("bert", tmp_path / "model")
    build(tmp_path)
    with pytest.raises(IngotError, match="generates no text"):
        LLM(tmp_path / "engine")
