"""Streaming safetensors writer: what the library reads back is what was added, whatever the shard size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ingot.builder.shards import HEADER_ROOM, ShardWriter


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
    return found


@pytest.mark.parametrize("shard_bytes", [1, 500, 1 << 30])
def test_every_dtype_comes_back_equal(tmp_path: Path, shard_bytes: int) -> None:
    values = torch.arange(-8, 8).reshape(4, 4)
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8, torch.uint8)
    tensors = {str(dtype): values.abs().to(dtype) for dtype in dtypes} | {
        "transposed": values.float().T,
        "scalar": torch.tensor(2.0),
    }
    with ShardWriter(tmp_path, shard_bytes=shard_bytes) as shards:
        for name, tensor in tensors.items():
            shards.add(name, tensor)
    found = read_all(tmp_path)
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name].float(), tensor.float()) and found[name].dtype == tensor.dtype
        for name, tensor in tensors.items()
    )
    assert len(list(tmp_path.glob("*.safetensors"))) == (len(tensors) if shard_bytes == 1 else 1)


def test_a_full_header_begins_the_next_shard(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, index=True) as shards:
        for index in range(1000):
            shards.add(f"{'long.' * 20}{index}", torch.tensor([index], dtype=torch.int32))
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert 1 < len(files) < 10
    assert all(int.from_bytes((tmp_path / name).read_bytes()[:8], "little") == HEADER_ROOM for name in files)
    found = read_all(tmp_path)
    assert [int(found[f"{'long.' * 20}{index}"]) for index in (0, 500, 999)] == [0, 500, 999]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == found.keys()
    assert index["metadata"]["total_size"] == 4000


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    def write(names: str) -> None:
        with ShardWriter(tmp_path, shard_bytes=4) as shards:
            for name in names:
                shards.add(name, torch.zeros(4))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write("ab")
    assert not list(tmp_path.iterdir())
