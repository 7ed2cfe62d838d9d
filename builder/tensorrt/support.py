"""Which GPUs and schemes TensorRT-RTX builds for. Loads neither TensorRT nor ONNX, so that a recipe is checked at once."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from ingot.errors import DependencyError, RecipeError
from ingot.network.weights import Scheme

SMS = (80, 86, 89, 120)  # what the library compiles for and the attention kernels run on
LEAST_SM = {Scheme.FP8: 89, Scheme.NVFP4: 120}


def check(schemes: set[Scheme], sms: Sequence[int]) -> None:
    """Refuses before anything is built what the library would refuse after."""
    for package in ("tensorrt_rtx", "onnx_ir"):
        if find_spec(package) is None:
            raise DependencyError(
                f"Target tensorrt-rtx needs the package {package}, which is not installed.",
                mend="Install it: pip install 'ingot[tensorrt-rtx]'.",
            )
    for sm in sms:
        if sm not in SMS:
            raise RecipeError(
                f"TensorRT-RTX does not build for SM {sm / 10}.",
                mend=f"Give --sm some of {', '.join(map(str, SMS))}, or use --target cuda.",
            )
    if not sms:
        raise RecipeError("No GPU is named.", mend=f"Give --sm some of {', '.join(map(str, SMS))}.")
    for scheme in sorted(schemes & LEAST_SM.keys()):
        if min(sms) < LEAST_SM[scheme]:
            raise RecipeError(
                f"{scheme} needs SM {LEAST_SM[scheme] / 10} or newer; --sm names {min(sms) / 10}.",
                mend=f"Leave {min(sms)} out of --sm, or use --quant int8 or int4 for it.",
            )
