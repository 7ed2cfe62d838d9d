"""Writes tensors to safetensors files as they come, so that a model never has to fit in memory.

The header stands before the data but is known only after it: each file starts with room for it, padded with blanks as
the format allows (github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import torch

# Whoever checks an engine takes a thread a file: 8.5 GiB in three shards took 4 s of its 14 to a first token.
SHARD_BYTES = 1 << 30
HEADER_ROOM = 64 << 10
DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int32: "I32",
    torch.int64: "I64",
}


class ShardWriter:
    """<stem>-00001-of-0000N.safetensors in a folder, each at most `shard_bytes`; one holds at least one tensor.

    With `index`, also the model.safetensors.index.json that Hugging Face's loaders read. The files get their names on a
    clean exit; otherwise none is left.
    """

    def __init__(
        self, folder: Path, *, shard_bytes: int = SHARD_BYTES, index: bool = False, stem: str = "model"
    ) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self.index = index
        self.stem = stem
        self.shards: list[dict[str, dict[str, object]]] = []
        self.file: IO[bytes] | None = None
        self.offset = 0  # into the open shard's data
        self.header_bytes = 0
        self.nbytes = 0  # of all tensors so far

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def add(self, name: str, tensor: torch.Tensor) -> None:
        nbytes = tensor.numel() * tensor.element_size()
        entry: dict[str, object] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape)}
        header_bytes = len(json.dumps({name: entry})) + 64  # the offsets' share
        if self.file and (
            self.offset + nbytes > self.shard_bytes or self.header_bytes + header_bytes > HEADER_ROOM - 64
        ):
            self._close_shard()
        if self.file is None:
            self.file = self._part(len(self.shards)).open("wb")
            self.file.write(b" " * (8 + HEADER_ROOM))
            self.shards.append({})
            self.offset = self.header_bytes = 0
        entry["data_offsets"] = [self.offset, self.offset + nbytes]
        self.shards[-1][name] = entry
        self.file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        self.offset += nbytes
        self.nbytes += nbytes
        self.header_bytes += header_bytes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            if self.file:
                self.file.close()
            for shard in range(len(self.shards)):
                self._part(shard).unlink(missing_ok=True)
            return
        self._close_shard()
        weight_map = {}
        for shard, entries in enumerate(self.shards):
            name = f"{self.stem}-{shard + 1:05}-of-{len(self.shards):05}.safetensors"
            self._part(shard).rename(self.folder / name)
            weight_map.update(dict.fromkeys(entries, name))
        if self.index:
            index = {"metadata": {"total_size": self.nbytes}, "weight_map": weight_map}
            (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")

    def _part(self, shard: int) -> Path:
        return self.folder / f"{shard:05}.part"

    def _close_shard(self) -> None:
        if self.file is None:
            return
        header = json.dumps({"__metadata__": {"format": "pt"}, **self.shards[-1]}, separators=(",", ":")).encode()
        self.file.seek(0)
        self.file.write(HEADER_ROOM.to_bytes(8, "little") + header.ljust(HEADER_ROOM))
        self.file.close()
        self.file = None
