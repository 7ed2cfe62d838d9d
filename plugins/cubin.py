"""CUDA C++ kernels without a build system: nvcc or NVRTC makes a cubin once, the driver loads it, ctypes launches it.

Knows sources, macros, the disk cache (`INGOT_KERNELS`, else ~/.cache/ingot/kernels) and the folders of engines in use, which
carry what they need and are only read. Knows nothing of what a kernel computes.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import hashlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ingot.errors import DependencyError
from ingot.plugins.compiling import about_to_compile

Argument = torch.Tensor | ctypes.c_int | ctypes.c_longlong | ctypes.c_float | ctypes.Array[ctypes.c_ulonglong] | None
PROGRAMMATIC_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
NVRTC_OPTIONS = ("--std=c++17", "--device-as-default-execution-space")  # the latter for generic lambdas
USUAL_SHARED = 48 << 10  # what a block gets without asking


_carried: list[Path] = []  # folders of cubins that engines in use brought
_recording: list[Path] = []  # folders that get a copy of every cubin asked for


class LaunchAttribute(ctypes.Structure):
    """CUlaunchAttribute: an id, then a 64-byte union of which only the first int is used here."""

    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_int * 16))


class LaunchConfig(ctypes.Structure):
    """CUlaunchConfig of cuda.h."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(LaunchAttribute)),
        ("num_attributes", ctypes.c_uint),
    )


class CudaKernel:
    """One compiled entry point. `launch` is asynchronous, on torch's current stream, and may be captured in a graph."""

    def __init__(self, cubin: bytes, name: str, *, shared: int = 0) -> None:
        """`shared`: bytes of dynamic shared memory of every launch."""
        torch.cuda.current_stream()  # the primary context must exist before the driver loads into it
        self._cubin, self._module, self._function = cubin, ctypes.c_void_p(), ctypes.c_void_p()
        check(driver().cuModuleLoadData(ctypes.byref(self._module), cubin), f"load {name}")
        check(driver().cuModuleGetFunction(ctypes.byref(self._function), self._module, name.encode()), f"find {name}")
        self._shared = shared
        if shared > USUAL_SHARED:
            check(driver().cuFuncSetAttribute(self._function, MAX_DYNAMIC_SHARED, shared), f"give {name} shared memory")

    def launch(self, grid: tuple[int, int, int], threads: int, args: list[Argument], *, overlap: bool = False) -> None:
        """Tensors pass as pointers, None as a null pointer, an array of words (see tensor_map.py) by value. With `overlap` it may start
        before its predecessor has ended, for which it waits itself: see overlap.py."""
        holders = [
            ctypes.c_void_p(arg.data_ptr())
            if isinstance(arg, torch.Tensor)
            else ctypes.c_void_p()
            if arg is None
            else arg
            for arg in args
        ]
        Launch(self, threads, holders, overlap=overlap).run(grid)


class Launch:
    """A kernel with places for its arguments, whose values may be changed from one run to the next."""

    def __init__(self, kernel: CudaKernel, threads: int, holders: Sequence[Any], *, overlap: bool) -> None:
        """`holders`: ctypes scalars, c_void_p for pointers."""
        self.holders = holders
        self._function = kernel._function
        self._pointers = (ctypes.c_void_p * len(holders))(*map(ctypes.addressof, holders))
        self._attribute = LaunchAttribute(id=PROGRAMMATIC_SERIALIZATION)
        self._attribute.value[0] = 1
        self._config = LaunchConfig(
            block=(threads, 1, 1),
            shared=kernel._shared,
            attributes=ctypes.pointer(self._attribute),
            num_attributes=int(overlap),
        )

    def run(self, grid: tuple[int, int, int]) -> None:
        self._config.grid[:] = grid
        self._config.stream = torch.cuda.current_stream().cuda_stream
        check(driver().cuLaunchKernelEx(ctypes.byref(self._config), self._function, self._pointers, None), "launch")


@cache
def driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as missing:
        raise DependencyError("No NVIDIA driver (libcuda.so.1) was found.", mend="Use TARGET=cpu here.") from missing


def check(status: int, doing: str) -> None:
    if status:
        text = ctypes.c_char_p()
        driver().cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"CUDA driver, {doing}: {(text.value or b'?').decode()} ({status})")


def architecture() -> str:
    """The current device's target, as nvcc writes it: sm_90a."""
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}" + ("a" if major >= 9 else "")


def kernel(source: Path, name: str, defines: Mapping[str, int], *, shared: int = 0) -> CudaKernel:
    """The kernel `name` of a .cu file under these macros, compiled for the current device unless a cache has it."""
    return _kernel(source, name, tuple(sorted(defines.items())), architecture(), shared)


@cache
def _kernel(source: Path, name: str, defines: tuple[tuple[str, int], ...], arch: str, shared: int) -> CudaKernel:
    return CudaKernel(cubin_of(source, dict(defines), arch), name, shared=shared)


def use_cubins(folder: Path) -> None:
    """From now on kernels that `folder` holds come from there."""
    if folder not in _carried:
        _carried.append(folder)


@contextlib.contextmanager
def recording(folder: Path) -> Iterator[None]:
    """`folder` gets a copy of every cubin that is loaded meanwhile for the first time in this process."""
    folder.mkdir(parents=True, exist_ok=True)
    _recording.append(folder)
    try:
        yield
    finally:
        _recording.remove(folder)


def cubin_of(source: Path, defines: Mapping[str, int], arch: str) -> bytes:
    text = source.read_bytes()
    options = [f"-D{key}={value}" for key, value in sorted(defines.items())]
    digest = hashlib.sha256(text + repr((options, arch)).encode()).hexdigest()[:24]
    name = f"{source.stem}-{arch}-{digest}.cubin"
    if carried := next((folder / name for folder in _carried if (folder / name).is_file()), None):
        return carried.read_bytes()
    path = cache_folder() / name
    about_to_compile(f"{source.name} {' '.join(options)}", carried=bool(_carried))
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        cubin = (
            with_nvcc(source, options, arch) if shutil.which("nvcc") else with_nvrtc(text, source.name, options, arch)
        )
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(cubin)
        partial.replace(path)
    for folder in _recording:
        shutil.copyfile(path, folder / name)
    return path.read_bytes()


def cache_folder() -> Path:
    return Path(os.environ.get("INGOT_KERNELS", "~/.cache/ingot/kernels")).expanduser()


def with_nvcc(source: Path, options: list[str], arch: str) -> bytes:
    virtual = arch.replace("sm_", "compute_")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "kernel.cubin"
        command = [
            "nvcc",
            "-cubin",
            "-std=c++17",
            f"-gencode=arch={virtual},code={arch}",
            *options,
            str(source),
            "-o",
            str(out),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"nvcc could not compile {source.name}:\n{done.stderr}")
        return out.read_bytes()


def with_nvrtc(text: bytes, name: str, options: list[str], arch: str) -> bytes:
    """Compiles with the NVRTC that comes with every CUDA build of torch: no toolkit needed."""
    nvrtc, program = load_nvrtc(), ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, name.encode(), 0, None, None)
    flags = [option.encode() for option in [f"--gpu-architecture={arch}", *NVRTC_OPTIONS, *options]]
    status = nvrtc.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
    size = ctypes.c_size_t()
    if status:
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(f"NVRTC could not compile {name}:\n{log.value.decode()}")
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, cubin)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return cubin.raw


def load_nvrtc() -> ctypes.CDLL:
    site = sysconfig.get_paths()["purelib"]
    names = [
        "libnvrtc.so.13",
        "libnvrtc.so.12",
        *sorted(glob.glob(f"{site}/nvidia/*/lib/libnvrtc.so.1?"), reverse=True),
    ]
    for name in names:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise DependencyError(
        "Neither nvcc nor NVRTC was found, and the kernel cache lacks a kernel.",
        mend="Install a CUDA build of torch (it brings NVRTC), or build the engine on a machine that has one.",
    )
