"""Every TensorRT on this machine whose Python classes can be held to: tensorrt_rtx, the full one, and its bindings alone.

The wheel of the full TensorRT's bindings is on PyPI, its libraries are not. The bindings ask those for ten C functions,
none of which the classes' own contracts need: where a C compiler is, libraries that hold nothing but these take their place.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
FUNCTIONS = (
    *(
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getPluginRegistry",
    ),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
    *("getBuilderPluginRegistry", "initLibNvInferPlugins", "getInferLibVersion"),
)


@cache
def modules() -> dict[str, ModuleType]:
    """By name. tensorrt's wheel imports only where its libraries are, so it is tried."""
    found = {}
    for name in ("tensorrt_rtx", "tensorrt"):
        try:
            found[name] = import_module(name)
        except (ImportError, OSError, RuntimeError):
            continue
    if "tensorrt" not in found and find_spec("tensorrt_bindings") and shutil.which("cc"):
        stand_in_libraries()
        found["tensorrt_bindings"] = import_module("tensorrt_bindings")
    return found


def plugin_bases() -> Any:
    """The first module's, or plain classes where no TensorRT is: the plugin object is then the same but for its bases."""
    for module in modules().values():
        return module
    names = ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuildV2", "IPluginV3OneRuntime")
    kinds = SimpleNamespace(HALF="HALF", BF16="BF16", FLOAT="FLOAT")
    return SimpleNamespace(DataType=kinds, **{name: type(name, (), {}) for name in names})


def stand_in_libraries() -> None:
    source = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "stand_in.c").write_text(source)
        for name in LIBRARIES:
            target = f"{folder}/{name}.so.11"
            command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}.so.11", "-o", target, f"{folder}/stand_in.c"]
            subprocess.run(command, check=True)
            ctypes.CDLL(target, ctypes.RTLD_GLOBAL)


def assert_same_signatures(fake: type, real: type, *, ignored: tuple[str, ...] = ()) -> None:
    """Every public method of `fake` is one of `real`, with the same argument names; every attribute is there too."""
    for name, member in vars(fake).items():
        if name.startswith("_") or name in ignored:
            continue
        assert hasattr(real, name), f"{real.__name__} has no {name}"
        if not callable(member):
            continue
        code: Any = member.__code__
        ours = list(code.co_varnames[1 : code.co_argcount])
        said = re.findall(rf"{name}\(self[^)]*\)", getattr(real, name).__doc__ or "")
        assert any(re.findall(r", (\w+):", each) == ours for each in said), (real.__name__, name, ours, said)
