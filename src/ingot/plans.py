"""plan/segments.json: the plans of an engine that TensorRT compiled, and the order they run in.

One of tensorrt holds attention; those of tensorrt-rtx have it run between them.

Written by the builder, read by the runtime.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from ingot.errors import EngineError

FILE_NAME = "plan/segments.json"


class Segment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step of the forward pass. Tensors are bound by name: an output feeds the next input of the same name."""

    plan: str  # file under plan/; equal segments name the same
    inputs: list[str]
    outputs: list[str]
    weights: dict[str, str]  # those inputs that are weights -> the engine's tensor


class PlanRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What building one plan took and gave."""

    plan: str
    serves: int  # segments
    size: int  # bytes
    seconds: float
    peak_rss: int  # bytes, of the building process
    activation_bytes: int  # what an execution context of it needs
    linears: dict[str, str]  # engine's linear -> what its GEMM computes in, read from the build log


class Plans(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    product: str = "TensorRT-RTX"
    library: str  # its version
    sm: list[int]
    segments: list[Segment]
    plans: list[PlanRecord]

    def write(self, folder: Path) -> None:
        (folder / FILE_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


def read_plans(engine: Path) -> Plans:
    """Raises EngineError where the file is missing or of another form."""
    path = engine / FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plans)
    except (OSError, msgspec.DecodeError) as error:
        raise EngineError(f"{path} is not readable: {error}.", mend="Build the engine again.") from error
