"""The few tensors that an engine of plans reads beside them: everything else is inside the plans and is kept once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open

from ingot.builder.shards import ShardWriter


def keep_beside(packed: Sequence[Path], inputs: set[str], folder: Path) -> None:
    """Writes to `folder` the tensors of `packed` folders that plans take as inputs, and the scales of an FP8 KV cache."""
    with ShardWriter(folder) as shards:
        for path in (path for each in packed for path in sorted(each.glob("*.safetensors"))):
            with safe_open(path, framework="pt") as file:
                for name in sorted(file.keys()):
                    if name in inputs or name.endswith(".kv_scale"):
                        shards.add(name, file.get_tensor(name))
