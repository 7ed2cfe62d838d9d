"""Reading checkpoints: what is unsafe or damaged is refused by name before a tensor is read."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ingot.builder.checkpoint import open_checkpoint
from ingot.errors import CheckpointError

GOOD = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
}
TWICE = json.dumps(GOOD)[:-1] + ', "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'


def write_header(path: Path, header: object, *, length: int | None = None, body: int = 16) -> None:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(body))


def folder_with(tmp_path: Path, **fields: Any) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **fields}))
    return tmp_path


@pytest.mark.parametrize(
    "damage",
    [
        {"header": GOOD, "length": 2**63},
        {"header": GOOD, "length": 2**40},
        {"header": {**GOOD, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}},
        {"header": {**GOOD, "b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 1 << 40]}}},
        {"header": {**GOOD, "b": {"dtype": "F32", "shape": [2], "data_offsets": [16, 8]}}},
        {"header": {**GOOD, "b": {"dtype": "F32", "shape": [-2], "data_offsets": [8, 16]}}},
        {"header": {**GOOD, "b": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [8, 16]}}},
        {"header": {**GOOD, "b": {"dtype": "F99", "shape": [2], "data_offsets": [8, 16]}}},
        {"header": TWICE},
        {"header": "[1]"},
        {"header": "not json"},
        {"header": GOOD, "body": 10},
        {"header": GOOD, "body": 24},
    ],
    ids=[
        "huge",
        "long",
        "overlap",
        "outside",
        "reversed",
        "negative",
        "overflow",
        "dtype",
        "twice",
        "list",
        "text",
        "truncated",
        "trailing",
    ],
)
def test_a_lying_header_is_refused_naming_the_file(tmp_path: Path, damage: dict[str, Any]) -> None:
    write_header(folder_with(tmp_path) / "model.safetensors", **damage)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(tmp_path)


def test_a_sound_header_is_read(tmp_path: Path) -> None:
    write_header(folder_with(tmp_path) / "model.safetensors", GOOD)
    checkpoint = open_checkpoint(tmp_path)
    assert {name: info.shape for name, info in checkpoint.tensors.items()} == {"a": (2,), "b": (2,)}
    assert checkpoint.read("b").tolist() == [0.0, 0.0]


@pytest.mark.parametrize("content", [b"PK\x03\x04" + bytes(64), b"\x80\x04K\x01.", b"\x80\x02}q\x00."])
def test_a_pickle_under_another_name_is_refused(tmp_path: Path, content: bytes) -> None:
    (folder_with(tmp_path) / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="is a pickle under another name"):
        open_checkpoint(tmp_path)


def test_pickled_weights_alone_are_refused_by_name(tmp_path: Path) -> None:
    (folder_with(tmp_path) / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(CheckpointError, match=r"only pickled weights \(pytorch_model.bin\)"):
        open_checkpoint(tmp_path)


def test_code_in_config_is_refused_by_name(tmp_path: Path) -> None:
    write_header(folder_with(tmp_path, auto_map={"AutoModel": "evil.Model"}) / "model.safetensors", GOOD)
    with pytest.raises(CheckpointError, match=r"config\.json has auto_map"):
        open_checkpoint(tmp_path)


def test_code_in_tokenizer_config_is_refused_by_name(tmp_path: Path) -> None:
    write_header(folder_with(tmp_path) / "model.safetensors", GOOD)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tok", None]}}))
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json has auto_map"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000])
def test_a_broken_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(tmp_path)


@pytest.fixture
def sharded(llama: Path, tmp_path: Path) -> Path:
    """The Llama in two files with an index."""
    folder = tmp_path / "sharded"
    shutil.copytree(llama, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    write_index(folder, {name: file for file, part in parts.items() for name in part})
    return folder


def write_index(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def read_index(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    return found


def test_shards_are_one_checkpoint(sharded: Path, llama: Path) -> None:
    whole, parts = open_checkpoint(llama), open_checkpoint(sharded)
    assert whole.tensors.keys() == parts.tensors.keys()
    assert all(torch.equal(whole.read(name), parts.read(name)) for name in whole.tensors)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "two.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lists two\.safetensors, which is not there"):
        open_checkpoint(sharded)


def test_an_index_that_points_outside_is_refused(sharded: Path) -> None:
    write_index(sharded, dict.fromkeys(read_index(sharded), "../one.safetensors"))
    with pytest.raises(CheckpointError, match="outside the checkpoint"):
        open_checkpoint(sharded)


def test_an_index_that_lies_is_refused(sharded: Path) -> None:
    write_index(sharded, {**read_index(sharded), "ghost.weight": "one.safetensors"})
    with pytest.raises(CheckpointError, match=r"says one\.safetensors holds ghost\.weight"):
        open_checkpoint(sharded)


def test_a_tensor_outside_the_index_is_named(sharded: Path) -> None:
    index = read_index(sharded)
    name, file = index.popitem()
    write_index(sharded, index)
    with pytest.raises(CheckpointError, match=rf"{file} holds {name}, which .* does not list"):
        open_checkpoint(sharded)


def test_a_tensor_in_two_files_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "double"
    shutil.copytree(llama, folder)
    shutil.copyfile(folder / "model.safetensors", folder / "other.safetensors")
    with pytest.raises(
        CheckpointError, match=r"other\.safetensors holds the tensor .* which model\.safetensors holds too"
    ):
        open_checkpoint(folder)


def test_the_digest_follows_content_not_place(llama: Path, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "moved")
    assert open_checkpoint(tmp_path / "moved").digest() == open_checkpoint(llama).digest()
    (tmp_path / "moved" / "config.json").write_text((llama / "config.json").read_text() + " ")
    assert open_checkpoint(tmp_path / "moved").digest() != open_checkpoint(llama).digest()
