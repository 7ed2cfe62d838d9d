"""The dtypes that config.json, recipes and manifests name, as PyTorch's."""

from __future__ import annotations

import torch

from ingot.errors import EngineError

NAMES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "fp8": torch.float8_e4m3fn,
}


def torch_dtype(name: str) -> torch.dtype:
    """Raises EngineError for a name ingot does not compute in."""
    if name not in NAMES:
        raise EngineError(
            f"The engine names the dtype {name!r}; ingot knows {', '.join(NAMES)}.", mend="Build it again."
        )
    return NAMES[name]
