"""An engine that is damaged, renamed inside or foreign is refused before any tensor of it is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ingot.builder.build import build_engine
from ingot.builder.recipe import Recipe
from ingot.errors import EngineError
from ingot.manifest import check_files, check_host, read_manifest

WEIGHTS = "weights/model-00001-of-00001.safetensors"


@pytest.fixture(scope="module")
def sound(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    recipe = Recipe(model=str(llama), out=str(root / "engine"), target="cpu", dtype="bfloat16", verify_tokens=64)
    return build_engine(recipe, cache=root / "cache")


@pytest.fixture
def engine(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "copy")
    return tmp_path / "copy"


def check(engine: Path) -> None:
    manifest = read_manifest(engine)
    check_host(engine, manifest, target="cpu")
    check_files(engine, manifest)


def test_a_sound_engine_passes_under_any_name(engine: Path) -> None:
    check(engine)
    check(engine.rename(engine.with_name("another-name")))


def truncate(engine: Path) -> None:
    path = engine / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])


def flip_bit(engine: Path) -> None:
    content = bytearray((engine / WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 1
    (engine / WEIGHTS).write_bytes(content)


def flip_config(engine: Path) -> None:
    text = (engine / "config.json").read_text()
    (engine / "config.json").write_text(text.replace("10000.0", "20000.0"))


def rename_weights(engine: Path) -> None:
    (engine / WEIGHTS).rename(engine / "weights" / "other.safetensors")


def add_shard(engine: Path) -> None:
    shutil.copyfile(engine / WEIGHTS, engine / "weights" / "zz.safetensors")


def add_kernel(engine: Path) -> None:
    (engine / "kernels").mkdir()
    (engine / "kernels" / "evil.cubin").write_bytes(b"x")


def lose_tokenizer(engine: Path) -> None:
    (engine / "tokenizer.json").unlink()


def edit(**fields: object) -> Callable[[Path], None]:
    def change(engine: Path) -> None:
        path = engine / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def spoil_manifest(engine: Path) -> None:
    (engine / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "bytes; the manifest says"),
        (flip_bit, "its content changed"),
        (flip_config, "its content changed"),
        (rename_weights, "lacks weights/model-00001-of-00001.safetensors"),
        (add_shard, r"zz\.safetensors is not in the manifest"),
        (add_kernel, r"evil\.cubin is not in the manifest"),
        (lose_tokenizer, r"lacks tokenizer\.json"),
        (spoil_manifest, "not valid JSON"),
        (edit(format_version=99), "has format version 99; this ingot reads version 1"),
        (edit(target="cuda", sm=[90]), "was compiled for target cuda; this is to run on cpu"),
        (edit(colour="red"), "does not follow the manifest format"),
        (edit(limits=None), "does not follow the manifest format"),
        (edit(files={"../outside": {"size": 0, "sha256": ""}}), "outside the engine"),
        (shutil.rmtree, r"has no manifest\.json"),
    ],
)
def test_damage_is_refused_saying_what_differs_and_what_mends_it(
    engine: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(engine)
    with pytest.raises(EngineError, match=said) as caught:
        check(engine)
    assert "uild" in caught.value.mend or "Remove" in caught.value.mend


def test_another_gpu_or_library_version_is_refused(engine: Path) -> None:
    edit(target="cuda", sm=[90])(engine)
    manifest = read_manifest(engine)
    check_host(engine, manifest, target="cuda", sm=90, versions={"torch": manifest.versions["torch"]})
    with pytest.raises(EngineError, match=r"was compiled for SM 9\.0; this machine has a GPU of SM 8\.0"):
        check_host(engine, manifest, target="cuda", sm=80)
    with pytest.raises(EngineError, match="this machine has no GPU"):
        check_host(engine, manifest, target="cuda")
    with pytest.raises(EngineError, match=r"was compiled with torch .*; this machine has 1\.0"):
        check_host(engine, manifest, target="cuda", sm=90, versions={"torch": "1.0"})
