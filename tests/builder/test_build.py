"""The pipeline: stages resume, the output appears whole or not at all, recipes that do not fit are refused first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from ingot.builder.build import Build, build_engine
from ingot.builder.memory import Needs
from ingot.builder.recipe import Recipe
from ingot.builder.targets import COMPILERS
from ingot.errors import CapacityError, CheckpointError, DependencyError, IngotError, RecipeError, UnsupportedModelError
from ingot.manifest import check_files, read_manifest

WriteCheckpoint = Callable[..., Path]
STAGES = ("quantize", "pack", "calibrate_kv", "compile", "verify", "manifest")


def recipe(model: Path, out: Path, **knobs: Any) -> Recipe:
    usual = {"target": "cpu", "verify_tokens": 64, "calibration_samples": 1, "allow_quality_loss": True}
    return Recipe(model=str(model), out=str(out), **{**usual, **knobs})


def test_a_build_that_dies_after_a_stage_goes_on_from_there(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after each stage in turn, the build redoes nothing and ends with the same engine."""
    wanted = recipe(llama, tmp_path / "engine", quant="fp8-dynamic", kv="fp8")
    cache = tmp_path / "cache"
    finished: set[str] = set()
    for index, name in enumerate(STAGES):
        with monkeypatch.context() as patch:
            original: Callable[..., Any] = getattr(Build, name)
            patch.setattr(Build, name, crash_after(original))
            with pytest.raises(KeyboardInterrupt):
                build_engine(wanted, cache=cache)
        assert not (tmp_path / "engine").exists()
        now = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
        assert len(now) == min(index + 1, 5)
        assert finished <= {f"{key}:{value}" for key, value in now.items()}
        finished = {f"{key}:{value}" for key, value in now.items()}
    resumed = read_manifest(build_engine(wanted, cache=cache))
    fresh = read_manifest(
        build_engine(recipe(llama, tmp_path / "fresh", quant="fp8-dynamic", kv="fp8"), cache=tmp_path / "cache2")
    )
    model = "weights/model-00001-of-00001.safetensors"
    assert resumed.files[model] == fresh.files[model]
    assert resumed.files.keys() == fresh.files.keys()


def test_an_lm_head_is_rounded_only_where_asked(llama: Path, tmp_path: Path) -> None:
    found = {}
    for asked in ("auto", "fp8"):
        engine = build_engine(recipe(llama, tmp_path / asked, lm_head=asked), cache=tmp_path / "cache")
        with safe_open(engine / "weights/model-00001-of-00001.safetensors", framework="pt") as file:
            found[asked] = {name: file.get_tensor(name) for name in file.keys() if "lm_head" in name}  # noqa: SIM118
        assert read_manifest(engine).quality["agreement"] > 0.9
    assert found["auto"].keys() == {"lm_head.weight"}
    weight, scale = found["fp8"]["lm_head.weight"], found["fp8"]["lm_head.weight_scale"]
    exact = found["auto"]["lm_head.weight"].float()
    assert weight.dtype == torch.float8_e4m3fn
    assert (weight.float() * scale.unsqueeze(1) - exact).norm() < 0.05 * exact.norm()


def test_an_lm_head_that_is_the_embedding_is_not_rounded(tmp_path: Path) -> None:
    tiny = Path(__file__).resolve().parents[2] / "examples" / "tiny"
    with pytest.raises(RecipeError, match="shares with its LM head"):
        build_engine(recipe(tiny, tmp_path / "out", lm_head="fp8"), cache=tmp_path / "cache")


def crash_after(stage: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        stage(*args, **kwargs)
        raise KeyboardInterrupt

    return run


def test_a_crash_while_sealing_leaves_the_old_engine(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = build_engine(recipe(llama, tmp_path / "out" / "engine"), cache=tmp_path / "cache")
    before = read_manifest(out)
    with monkeypatch.context() as patch:
        patch.setattr("ingot.builder.seal.record_files", crash_after(lambda folder: None))
        with pytest.raises(KeyboardInterrupt):
            build_engine(recipe(llama, out, dtype="bfloat16"), cache=tmp_path / "cache")
    assert read_manifest(out) == before
    check_files(out, before)
    assert [path.name for path in out.parent.iterdir()] == ["engine"]
    assert (
        read_manifest(build_engine(recipe(llama, out, dtype="bfloat16"), cache=tmp_path / "cache")).dtype == "bfloat16"
    )


def test_what_is_not_an_engine_is_not_written_over(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(RecipeError, match="is not an engine; a build would delete them"):
        build_engine(recipe(llama, tmp_path / "photos"), cache=tmp_path / "cache")
    with pytest.raises(RecipeError, match="is a file"):
        build_engine(recipe(llama, tmp_path / "photos" / "cat.jpg"), cache=tmp_path / "cache")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_the_engine_keeps_what_hugging_face_wrote(llama: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(llama, source)
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "generation_config.json").write_text('{"temperature": 0.5}')
    (source / "README.md").write_text("not part of an engine")
    engine = build_engine(recipe(source, tmp_path / "engine"), cache=tmp_path / "cache")
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (engine / name).read_bytes() == (source / name).read_bytes()
    assert sorted(path.name for path in engine.iterdir()) == sorted(
        ["chat_template.jinja", "config.json", "generation_config.json", "manifest.json", "tokenizer.json", "weights"]
    )


def test_the_manifest_names_its_recipe_limits_and_memory(llama: Path, tmp_path: Path) -> None:
    knobs = {"name": "llama-small", "max_model_len": 128, "max_num_seqs": 4, "max_num_batched_tokens": 64}
    manifest = read_manifest(build_engine(recipe(llama, tmp_path / "engine", **knobs), cache=tmp_path / "cache"))
    assert manifest.name == "llama-small"
    assert (manifest.target, manifest.sm, manifest.dtype, manifest.kv_dtype) == ("cpu", [], "float32", "float32")
    assert manifest.limits.num_pages == 4 * 128 // 16
    assert manifest.memory["kv_pool"] == 4 * 128 * 2 * 2 * 4 * 32 * 4
    assert manifest.memory["weights"] == manifest.files["weights/model-00001-of-00001.safetensors"].size
    assert manifest.rebuild.startswith(f"ingot build {llama} -o {tmp_path / 'engine'} --name llama-small")
    assert {"torch", "safetensors", "ingot", "python"} <= manifest.versions.keys()


@pytest.mark.parametrize(
    ("knobs", "error", "said"),
    [
        ({"max_model_len": 512}, RecipeError, "past the 256 positions"),
        ({"kv_memory": 1000}, CapacityError, "--kv-memory is 1000 B"),
        ({"max_model_len": 256, "kv_memory": 1 << 18}, CapacityError, "256 tokens needs 512.0 KiB"),
        ({"model": "/nowhere"}, CheckpointError, "neither a folder nor a Hub id"),
        ({"verify_text": "/nowhere.txt"}, RecipeError, "--verify-text /nowhere.txt is not a file"),
        ({"target": "cuda"}, DependencyError, "cannot compile for cuda"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(
    llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    knobs: dict[str, Any],
    error: type[IngotError],
    said: str,
) -> None:
    monkeypatch.setitem(COMPILERS, "cuda", "ingot.builder.targets.absent:compile_engine")
    with pytest.raises(error, match=said):
        build_engine(recipe(**{"model": llama, "out": tmp_path / "engine", **knobs}), cache=tmp_path / "cache")
    assert not (tmp_path / "engine").exists()


def test_a_full_disk_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(CapacityError, match=r"needs 1024\.0 TiB of disk at .*are free"):
        Needs(disk=1 << 50, out=0, ram=0).check(tmp_path / "cache", tmp_path / "out")


def test_missing_and_superfluous_tensors_are_named(write_checkpoint: WriteCheckpoint, tmp_path: Path) -> None:
    more = write_checkpoint(tmp_path / "more", num_hidden_layers=3)
    config = json.loads((more / "config.json").read_text())
    (more / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(CheckpointError, match=r"holds 9 tensors .* model\.layers\.2\.input_layernorm\.weight"):
        build_engine(recipe(more, tmp_path / "engine"), cache=tmp_path / "cache")
    (more / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(CheckpointError, match=r"lacks model\.layers\.3\."):
        build_engine(recipe(more, tmp_path / "engine"), cache=tmp_path / "cache")
    (more / "config.json").write_text(json.dumps({**config, "intermediate_size": 256}))
    with pytest.raises(
        CheckpointError, match=r"layers\.0\.gate_up has shape \(1024, 256\); config\.json asks for \(512, 256\)"
    ):
        build_engine(recipe(more, tmp_path / "engine"), cache=tmp_path / "cache")


def test_groups_that_do_not_divide_a_linear_are_refused(write_checkpoint: WriteCheckpoint, tmp_path: Path) -> None:
    odd = write_checkpoint(tmp_path / "odd", intermediate_size=320)
    with pytest.raises(UnsupportedModelError, match="int4 needs linears with a multiple of 128 inputs; down has 320"):
        build_engine(recipe(odd, tmp_path / "engine", quant="int4"), cache=tmp_path / "cache")


def test_an_unknown_family_is_refused_by_field(write_checkpoint: WriteCheckpoint, llama: Path, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "other")
    config = json.loads((llama / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    with pytest.raises(UnsupportedModelError, match="mamba"):
        build_engine(recipe(tmp_path / "other", tmp_path / "engine"), cache=tmp_path / "cache")


@pytest.mark.parametrize(
    "fields",
    [
        {"tie_word_embeddings": True},
        {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
        {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 64},
        {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 32},
    ],
    ids=["tied", "qwen2", "qwen3", "mistral"],
)
def test_every_family_equals_transformers(
    write_checkpoint: WriteCheckpoint, tmp_path: Path, fields: dict[str, Any]
) -> None:
    model = write_checkpoint(tmp_path / "model", **fields)
    quality = read_manifest(build_engine(recipe(model, tmp_path / "engine"), cache=tmp_path / "cache")).quality
    assert quality is not None
    assert quality["reference"] == "transformers' model in float32"
    assert quality["kl"] < 1e-8
    assert max(quality["layer_errors"]) < 1e-5
