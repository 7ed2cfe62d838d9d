"""CUDA C++ -> PTX for sm_90a, by NVRTC's Python wheel. Knows nothing of what PTX means."""

from __future__ import annotations

import ctypes
import sysconfig
from functools import cache
from pathlib import Path

from ingot.plugins.cubin import NVRTC_OPTIONS


@cache
def nvrtc() -> ctypes.CDLL:
    """Its helper library lies beside it, off the loader's path: loaded first."""
    folder = Path(sysconfig.get_paths()["purelib"]) / "nvidia" / "cu13" / "lib"
    ctypes.CDLL(str(next(folder.glob("libnvrtc-builtins.so.13*"))))
    return ctypes.CDLL(str(folder / "libnvrtc.so.13"))


@cache
def ptx_of(source: Path, defines: tuple[tuple[str, int], ...]) -> str:
    """PTX with the source's line numbers. Raises RuntimeError with the compiler's log."""
    library, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    library.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None)
    options = ["--gpu-architecture=compute_90a", *NVRTC_OPTIONS, "-lineinfo", *(f"-D{k}={v}" for k, v in defines)]
    flags = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = library.nvrtcCompileProgram(program, len(options), flags)
    sized, got = (
        (library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog)
        if status
        else (library.nvrtcGetPTXSize, library.nvrtcGetPTX)
    )
    sized(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    got(program, text)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    if status:
        raise RuntimeError(f"NVRTC could not compile {source.name}:\n{text.value.decode()}")
    return text.value.decode()
