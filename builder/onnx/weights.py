"""An engine's weights as ONNX tensors that stay on disk until they are written. Knows safetensors' header, no torch.

Bytes are never held: an unchanged tensor is an ir.ExternalTensor onto the engine's own file, which onnx_ir copies file to
file; a converted one passes through memory a few megabytes at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ingot.errors import EngineError
from ingot.network.weights import Scheme

DTYPES = {
    "F32": ir.DataType.FLOAT,
    "F16": ir.DataType.FLOAT16,
    "BF16": ir.DataType.BFLOAT16,
    "F8_E4M3": ir.DataType.FLOAT8E4M3FN,
    "I8": ir.DataType.INT8,
    "U8": ir.DataType.UINT8,
}
CHUNK = 1 << 22  # bytes, a multiple of every element's size
SCHEMES = {ir.DataType.FLOAT8E4M3FN: Scheme.FP8, ir.DataType.INT8: Scheme.INT8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Where one tensor lies: `length` bytes from `offset` in `path`."""

    path: Path
    offset: int
    length: int
    dtype: ir.DataType
    shape: tuple[int, ...]

    def external(
        self, name: str, dtype: ir.DataType | None = None, shape: tuple[int, ...] | None = None
    ) -> ir.ExternalTensor:
        """The same bytes, read as another dtype where one is given (packed nibbles as INT4)."""
        kind, size = dtype or self.dtype, ir.Shape(shape or self.shape)
        return ir.ExternalTensor(str(self.path.absolute()), self.offset, self.length, kind, shape=size, name=name)

    def array(self) -> npt.NDArray[np.generic]:
        """A copy of the values, for what is small: scales, norms, biases."""
        return np.array(self.external("values").numpy())


class ConvertedTensor(ir.LazyTensor):
    """A stored tensor in another float dtype: whole when asked for, a few megabytes at a time when written to a file."""

    def __init__(self, source: Stored, dtype: ir.DataType, name: str) -> None:
        shape = ir.Shape(source.shape)
        super().__init__(lambda: ir.Tensor(self._whole(), dtype=dtype, shape=shape, name=name), dtype, shape, name=name)
        self._source = source

    def tofile(self, file: BinaryIO) -> None:
        file.writelines(chunk.tobytes() for chunk in self._chunks())

    def _whole(self) -> npt.NDArray[np.generic]:
        return np.concatenate(list(self._chunks())).reshape(self._source.shape)

    def _chunks(self) -> Iterator[npt.NDArray[np.generic]]:
        kind = self._source.dtype.numpy()
        for start in range(0, self._source.length, CHUNK):
            count = min(CHUNK, self._source.length - start) // kind.itemsize
            found = np.fromfile(self._source.path, kind, count, offset=self._source.offset + start)
            yield found.astype(self.dtype.numpy())


class EngineWeights:
    """Canonical names (network/weights.py) -> Stored, over the safetensors files of an engine.

    Raises EngineError where a file is not safetensors, holds a dtype no engine has, or a wanted tensor is missing.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._stored: dict[str, Stored] = {}
        for path in paths:
            self._stored |= read_header(path)

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def __getitem__(self, name: str) -> Stored:
        if name not in self._stored:
            raise EngineError(f"The engine's weights lack {name}.", mend="Build the engine again.")
        return self._stored[name]

    def scheme(self, name: str) -> Scheme:
        """How weight `name` is quantized: told by its dtype and by which scales lie beside it."""
        dtype = self[f"{name}.weight"].dtype
        if dtype is ir.DataType.UINT8:
            return Scheme.NVFP4 if f"{name}.weight_scale_2" in self else Scheme.INT4
        return SCHEMES.get(dtype, Scheme.NONE)

    def floats(self, name: str) -> npt.NDArray[np.float32]:
        return self[name].array().astype(np.float32)


def weight_files(folder: Path) -> list[Path]:
    """Every safetensors file of a weights folder, in a fixed order. Raises EngineError where there is none."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise EngineError(f"{folder} has no *.safetensors.", mend="Build the engine again.")
    return paths


def read_header(path: Path) -> dict[str, Stored]:
    """The format is eight bytes of header length, a JSON header, then the data (huggingface/safetensors, README)."""
    try:
        with path.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            entries = json.loads(file.read(start - 8))
        return {name: stored(path, start, entry) for name, entry in entries.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, OSError, OverflowError, MemoryError) as error:
        raise EngineError(
            f"{path} is not a safetensors file of an engine ({error!r}).", mend="Build the engine again."
        ) from error


def stored(path: Path, start: int, entry: dict[str, object]) -> Stored:
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]  # type: ignore[misc]
    return Stored(path=path, offset=start + begin, length=end - begin, dtype=DTYPES[dtype], shape=tuple(shape))  # type: ignore
