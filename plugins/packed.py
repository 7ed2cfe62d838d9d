"""Triton kernels compiled when an engine is built and launched from its folder: no compiler, no C compiler, no Triton cache.

`launch` is how every Triton kernel here is started. While a build records, what Triton compiled is kept under a key that says
all it was specialized on; an engine in use answers from there. Knows keys and binaries, not what a kernel computes.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import torch

from ingot.errors import EngineError
from ingot.plugins.compiling import about_to_compile
from ingot.plugins.cubin import CudaKernel, Launch

INDEX = "index.json"
SHARED = Path(__file__).parent / "quantize" / "kernels.py"
ENTRY = re.compile(r"\.entry\s+(\w+)\s*\((.*?)\)", re.DOTALL)  # of PTX: name and parameters
SCALARS = {"i32": ctypes.c_int, "i64": ctypes.c_longlong, "f": ctypes.c_float}


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """What a launch needs to know of one binary."""

    cubin: str  # file name
    symbol: str
    threads: int
    shared: int  # bytes of dynamic shared memory
    passed: dict[str, str]  # arguments that the binary takes, in order, and their types: of SCALARS, or a tensor's
    scratch: int  # pointers after them, of memory that none of our kernels asks for: null


@dataclass(slots=True)
class Pack:
    """A folder of binaries with its index."""

    folder: Path
    index: dict[str, Compiled]

    def load(self, key: str, *, overlap: bool) -> Ready:
        entry = self.index[key]
        kernel = CudaKernel((self.folder / entry.cubin).read_bytes(), entry.symbol, shared=entry.shared)
        kinds = [SCALARS.get(kind, ctypes.c_void_p) for kind in entry.passed.values()]
        holders = [kind() for kind in (*kinds, *(ctypes.c_void_p,) * entry.scratch)]
        return Ready(Launch(kernel, entry.threads, holders, overlap=overlap), tuple(entry.passed))


@dataclass(frozen=True, slots=True)
class Ready:
    """A loaded binary and the names of the arguments it takes."""

    launch: Launch
    names: tuple[str, ...]

    def run(self, grid: tuple[int, ...], values: dict[str, Any]) -> None:
        for holder, name in zip(self.launch.holders, self.names, strict=False):  # what is left are null pointers
            value = values[name]
            holder.value = value.data_ptr() if isinstance(value, torch.Tensor) else value
        x, y, z = (*grid, 1, 1)[:3]
        self.launch.run((x, y, z))


@dataclass(slots=True)
class State:
    packs: list[Pack] = field(default_factory=list)  # of engines in use, the newest last
    ready: dict[tuple[Any, ...], Ready] = field(default_factory=dict)  # by quick_key
    recording: Pack | None = None


_state = State()
_parameters: dict[int, tuple[Parameter, ...]] = {}  # of kernels, which live as long as their modules


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    constant: bool
    plain: bool  # not specialized on
    type: str  # "" unless annotated
    default: Any


def parameters(kernel: Any) -> tuple[Parameter, ...]:
    """By identity: Triton hashes a kernel by its source."""
    found = _parameters.get(id(kernel))
    if found is None:
        found = _parameters[id(kernel)] = tuple(
            Parameter(p.name, p.is_constexpr, p.do_not_specialize, p.annotation_type or "", p.default)
            for p in kernel.params
        )
    return found


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *args: Any,
    num_warps: int = 4,
    num_stages: int = 3,
    overlap: int = 0,
    **named: Any,
) -> None:
    """kernel[grid](*args, **named): from a pack that has it, else through Triton. `overlap`: the kernel's PDL, as overlap.py
    gives it. Raises EngineError where it would have to be compiled and that is refused."""
    named["PDL"] = overlap
    options = {"num_warps": num_warps, "num_stages": num_stages, "launch_pdl": overlap > 0}
    if not (_state.packs or _state.recording):
        kernel[grid](*args, **named, **options)
        return
    values = dict(zip((p.name for p in parameters(kernel)), args, strict=False)) | named
    quick = quick_key(kernel, values, num_warps, num_stages)
    if quick in _state.ready:
        _state.ready[quick].run(grid, values)
        return
    key = key_of(kernel, values, options)
    for pack in reversed(_state.packs):
        if key in pack.index:
            _state.ready[quick] = pack.load(key, overlap=overlap > 0)
            _state.ready[quick].run(grid, values)
            return
    about_to_compile(key, carried=bool(_state.packs))
    made = kernel[grid](*args, **named, **options)
    if _state.recording is not None and key not in _state.recording.index:
        keep(_state.recording, key, describe(made, passed(kernel, values)), made.asm["cubin"])


def is_small(value: int) -> bool:
    return -(1 << 31) <= value < 1 << 31


def quick_key(kernel: Any, values: dict[str, Any], num_warps: int, num_stages: int) -> tuple[Any, ...]:
    """Tells apart what key_of does, at a tenth of the time: it is asked at every launch."""
    parts: list[Any] = [id(kernel), num_warps, num_stages]
    for p in parameters(kernel):
        value = values.get(p.name, p.default)
        if p.constant:
            parts.append(value)
        elif isinstance(value, torch.Tensor):
            parts.append((value.dtype, p.plain or value.data_ptr() % 16 == 0))
        elif isinstance(value, int):
            parts.append((is_small(value), 0 if p.plain else 1 if value == 1 else 16 if value % 16 == 0 else 2))
        else:
            parts.append(type(value))
    return tuple(parts)


def key_of(kernel: Any, values: dict[str, Any], options: dict[str, int]) -> str:
    """All that decides which binary a launch takes: source, argument types and alignments, constants, options."""
    parts = []
    for p in parameters(kernel):
        value = values.get(p.name, p.default)
        parts.append(f"{p.name}={value}" if p.constant else specialization(p, value))
    how = ",".join(f"{name}={int(value)}" for name, value in options.items())
    return f"{kernel.__name__}@{source_digest(kernel)}({','.join(parts)}){how}"


@cache
def source_digest(kernel: Any) -> str:
    """Of the files a kernel is written in: its own, and the one that all share."""
    files = (Path(kernel.fn.__code__.co_filename), SHARED)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def specialization(p: Parameter, value: Any) -> str:
    """As Triton's specialize_impl tells launches apart."""
    if isinstance(value, torch.Tensor):
        aligned = "" if p.plain or value.data_ptr() % 16 else "D"
        return f"*{str(value.dtype)[6:]}{aligned}"
    if value is None or isinstance(value, float):
        return "none" if value is None else "f"
    width = p.type or ("i32" if is_small(value) else "i64")
    return width if p.plain else "1" if value == 1 else f"{width}{'' if value % 16 else 'D'}"


def passed(kernel: Any, values: dict[str, Any]) -> dict[str, str]:
    """Arguments and their types, without constants and without the integers 1 and Nones that Triton makes constants of."""
    kinds = {p.name: specialization(p, values[p.name]).removesuffix("D") for p in parameters(kernel) if not p.constant}
    return {name: kind for name, kind in kinds.items() if kind not in ("1", "none")}


def describe(made: Any, names: dict[str, str]) -> Compiled:
    """`made` is Triton's CompiledKernel, whose arguments are `names`."""
    found = ENTRY.search(made.asm["ptx"])
    if found is None:
        raise RuntimeError(f"the PTX of {made.metadata.name} has no entry")
    cubin = f"{made.metadata.name}-{hashlib.sha256(made.asm['cubin']).hexdigest()[:16]}.cubin"
    return Compiled(
        cubin=cubin, symbol=made.metadata.name, threads=32 * made.metadata.num_warps, shared=made.metadata.shared,
        passed=names, scratch=found[2].count(".param") - len(names),
    )  # fmt: skip


def keep(pack: Pack, key: str, entry: Compiled, cubin: bytes) -> None:
    (pack.folder / entry.cubin).write_bytes(cubin)
    pack.index[key] = entry


@contextlib.contextmanager
def recording(folder: Path) -> Iterator[None]:
    """Every kernel launched meanwhile is kept in `folder`; its index is written at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    pack = Pack(folder, {})
    _state.recording = pack
    try:
        yield
    finally:
        _state.recording = None
    (folder / INDEX).write_bytes(msgspec.json.format(msgspec.json.encode(dict(sorted(pack.index.items())))))


def use_pack(folder: Path) -> None:
    """From now on kernels come from `folder`, where it has them. Raises EngineError where it is not a pack."""
    if os.environ.get("TRITON_INTERPRET") == "1" or any(pack.folder == folder for pack in _state.packs):
        return
    try:
        index = msgspec.json.decode((folder / INDEX).read_bytes(), type=dict[str, Compiled])
    except (OSError, msgspec.DecodeError) as broken:
        raise EngineError(
            f"{folder} does not hold compiled kernels ({broken}).", mend="Build the engine again."
        ) from broken
    _state.packs.append(Pack(folder, index))
    _state.ready.clear()
