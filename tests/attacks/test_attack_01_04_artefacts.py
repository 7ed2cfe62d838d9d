"""Attacks 1 to 4: checkpoints and engines that carry code or lies."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from tests.engines import write_engine

from ingot.builder.checkpoint import open_checkpoint
from ingot.errors import CheckpointError, EngineError
from ingot.manifest import check_files, read_manifest


def checkpoint(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | config))
    return folder


def evil_pickle(mark: Path) -> bytes:
    """Written by hand, so that nothing here imports pickle either: loading it would make `mark`."""
    return b"cos\nsystem\n(V" + f"touch {mark}".encode() + b"\ntR."


def test_attack_01_code_in_a_checkpoint_is_refused_and_not_imported(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    folder = checkpoint(tmp_path / "evil", auto_map={"AutoConfig": "evil.Config", "AutoTokenizer": "evil.Tokenizer"})
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    with pytest.raises(CheckpointError, match="auto_map"):
        open_checkpoint(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_attack_02_a_pickle_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "ran"
    folder = checkpoint(tmp_path / "evil")
    (folder / name).write_bytes(evil_pickle(mark))
    with pytest.raises(CheckpointError):
        open_checkpoint(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("length", "header"),
    [
        (2**63, "{}"),
        (None, '{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}'),
        (None, '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 99999999]}}'),
        (None, '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {}}'),
        (None, "[" * 100_000),
    ],
    ids=["length", "negative", "outside", "twice", "deep"],
)
def test_attack_03_a_lying_header_is_refused(tmp_path: Path, length: int | None, header: str) -> None:
    folder = checkpoint(tmp_path / "evil")
    text = header.encode()
    size = len(text) if length is None else length
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + text + bytes(4))
    with pytest.raises(CheckpointError, match="safetensors"):
        open_checkpoint(folder)


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "more"])
def test_attack_04_a_damaged_engine_is_refused_before_it_is_loaded(tmp_path: Path, damage: str) -> None:
    engine = write_engine(tmp_path / "engine")
    path = engine / "tokenizer.json"
    whole = path.read_bytes()
    if damage == "cut":
        os.truncate(path, len(whole) - 1)
    elif damage == "flip":
        path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    elif damage == "gone":
        path.unlink()
    else:
        (engine / "weights").mkdir()
        (engine / "weights" / "extra.safetensors").write_bytes(b"x")
    with pytest.raises(EngineError):
        check_files(engine, read_manifest(engine))
