"""Which GPUs and schemes the TensorRT libraries build for. Loads neither them nor ONNX, so that a recipe is checked at once."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from ingot.errors import DependencyError, RecipeError
from ingot.network.weights import Scheme
from ingot.tensorrt_library import LIBRARIES

SMS = (80, 86, 89, 120)  # what TensorRT-RTX compiles for and the attention kernels run on
LEAST_SM = {Scheme.FP8: 89, Scheme.NVFP4: 120}  # TensorRT-RTX's
TENSORRT_LEAST_SM = 80
TENSORRT_SCHEMES = {Scheme.FP8: 89, Scheme.NVFP4: 100}


def check_rtx(schemes: set[Scheme], sms: Sequence[int], *, kv_dtype: str = "") -> None:
    """Refuses before anything is built what TensorRT-RTX would refuse after."""
    check_packages("tensorrt-rtx")
    check_kv(kv_dtype, sms)
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


def check_tensorrt(schemes: set[Scheme], sms: Sequence[int], here: int | None, *, kv_dtype: str = "") -> None:
    """As check_rtx, for TensorRT, which builds for the GPU it runs on: `here` is its SM, None where there is none."""
    check_packages("tensorrt")
    check_kv(kv_dtype, [] if here is None else [here])
    if here is None:
        raise DependencyError(
            "TensorRT builds for the GPU it runs on, and PyTorch sees no NVIDIA GPU here.",
            mend="Build on the GPU that will serve, or with --target tensorrt-rtx, which needs none.",
        )
    if any(sm != here for sm in sms):
        raise RecipeError(
            f"TensorRT builds for the GPU it runs on, SM {here / 10}; --sm names {', '.join(str(sm / 10) for sm in sms)}.",
            mend="Leave --sm out, or build on that GPU.",
        )
    for scheme in sorted(schemes & TENSORRT_SCHEMES.keys()):
        if here < TENSORRT_SCHEMES[scheme]:
            raise RecipeError(
                f"{scheme} needs SM {TENSORRT_SCHEMES[scheme] / 10} or newer in TensorRT; this GPU is SM {here / 10}.",
                mend="Use --quant int8 or int4.",
            )
    if here < TENSORRT_LEAST_SM:
        raise RecipeError(
            f"The attention kernels need SM {TENSORRT_LEAST_SM / 10} or newer; this GPU is SM {here / 10}.",
            mend="Use --target cpu.",
        )


def check_kv(kv_dtype: str, sms: Sequence[int]) -> None:
    """Older GPUs do not convert e4m3, so the attention kernels cannot read it."""
    if kv_dtype == "float8_e4m3fn" and sms and min(sms) < LEAST_SM[Scheme.FP8]:
        raise RecipeError(
            f"An fp8 KV cache needs SM {LEAST_SM[Scheme.FP8] / 10} or newer; SM {min(sms) / 10} is asked for.",
            mend=f"Use --kv auto, or leave {min(sms)} out of --sm.",
        )


def check_packages(target: str) -> None:
    LIBRARIES[target].check_present()
    if find_spec("onnx_ir") is None:
        raise DependencyError(
            f"Target {target} needs the package onnx_ir, which is not installed.",
            mend=f"Install it: pip install 'ingot[{target}]'.",
        )
