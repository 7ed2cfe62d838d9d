"""Engine folders with nothing but a manifest, which is all that rendering reads."""

from __future__ import annotations

from pathlib import Path

from ingot.manifest import FORMAT_VERSION, Limits, Manifest


def manifest_of(name: str, target: str = "cpu") -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        target=target,
        sm=[],
        source={},
        recipe={"quant": "none"},
        dtype="float32",
        kv_dtype="float32",
        limits=Limits(max_model_len=64, max_num_seqs=8, max_num_batched_tokens=32, page_size=4, num_pages=64),
        memory={},
        quality=None,
        versions={},
        files={},
        rebuild=f"ingot build {name}",
        built_at="2026-01-01T00:00:00Z",
    )


def engine_folder(parent: Path, folder: str, name: str, target: str = "cpu") -> Path:
    engine = parent / folder
    engine.mkdir(parents=True)
    manifest_of(name, target).write(engine)
    return engine
