"""An engine's weight files to tensors on a device. Knows no names and no schemes."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ingot.errors import EngineError


def read_tensors(folder: Path, device: str = "cpu") -> dict[str, Tensor]:
    """All tensors of a folder's safetensors files: mapped rather than read on the CPU. Raises EngineError."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt", device=device) as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise EngineError(
                f"{path} is not a sound safetensors file ({error}).", mend="Build the engine again."
            ) from error
    return tensors
