"""`ingot doctor`: what this machine has, what each missing part would bring, and whether a build can run at all."""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import click
from rich.console import Console

from ingot.builder.memory import existing_parent, human
from ingot.builder.stages import DEFAULT_CACHE
from ingot.builder.tables import table
from ingot.builder.targets import COMPILERS, LEAST_SM, gpu_sm
from ingot.tensorrt_library import LIBRARIES
from ingot.triton_home import default_home

LEAST_PYTHON = (3, 11)
LOW_DISK = 20 << 30
# package -> (pip extra that brings it, what for, needed to build and serve on cpu)
PACKAGES = {
    "torch": ("build", "building, the cpu and cuda programs", True),
    "safetensors": ("build", "reading and writing weights", True),
    "transformers": ("build", "calibration, chat templates", True),
    "huggingface_hub": ("build", "fetching models", True),
    "nvidia-modelopt": ("build", "fp8, int8, int4, nvfp4", True),
    "psutil": ("build", "process memory", False),
    "fastapi": ("serve", "the OpenAI server", True),
    "uvicorn": ("serve", "the OpenAI server", True),
    "triton": ("build", "the cuda target's kernels", False),
    "tritonclient": ("triton", "gRPC and Triton", False),
    "onnx": ("tensorrt-rtx", "the TensorRT targets", False),
    "onnx_ir": ("tensorrt-rtx", "the TensorRT targets", False),
    "tensorrt": ("tensorrt", "the tensorrt target", False),
    "tensorrt_rtx": ("tensorrt-rtx", "the tensorrt-rtx target", False),
    "openai": ("demo", "ingot ask, the demo", False),
}
LINK = "https://"
INSTALL = {library.package: library.install for library in LIBRARIES.values()}  # where pip alone may not do


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report. `needed` and not `good` makes the doctor exit 1."""

    what: str
    found: str
    good: bool
    purpose: str = ""
    needed: bool = False
    mend: str = ""


@click.command()
def doctor() -> None:
    """Say what this machine can build and serve. Exits 1 where something needed is missing."""
    findings = [*machine(), *gpus(), *packages(), *targets()]
    report = table("This machine", "what", "", "found", "what for", "mend")
    for column in report.columns:
        column.justify = "left"
    for finding in findings:
        mark = "[green]ok[/]" if finding.good else "[red]missing[/]" if finding.needed else "[yellow]-[/]"
        mend = "see below" if LINK in finding.mend else finding.mend.replace("[", r"\[")
        report.add_row(finding.what, mark, finding.found, finding.purpose, mend)
    console = Console()
    console.print(report)
    for finding in findings:
        if LINK in finding.mend:  # a table would break it
            console.print(f"{finding.what}: {finding.mend}", soft_wrap=True, highlight=False, markup=False)
    broken = [finding.what for finding in findings if finding.needed and not finding.good]
    console.print(f"Missing: {', '.join(broken)}." if broken else "Ready to build and serve.", highlight=False)
    sys.exit(1 if broken else 0)


def machine() -> list[Finding]:
    disk = shutil.disk_usage(existing_parent(DEFAULT_CACHE.expanduser()))
    home = default_home()
    lacking = home.missing()
    container = Path("/opt/tritonserver/bin/tritonserver")
    triton = shutil.which("tritonserver") or (str(container) if container.is_file() else None)
    if triton is None and not lacking:
        triton = str(home.binary)
    return [
        Finding(
            what="python",
            found=platform.python_version(),
            good=sys.version_info >= LEAST_PYTHON,
            needed=True,
            mend="" if sys.version_info >= LEAST_PYTHON else "Install Python 3.11 or newer.",
        ),
        Finding(what="memory", found=human(total_memory()), good=True),
        Finding(
            what="disk for the cache",
            found=f"{human(disk.free)} free",
            good=disk.free >= LOW_DISK,
            mend="" if disk.free >= LOW_DISK else "Small models only; put the cache elsewhere: --cache DIR.",
        ),
        Finding(
            what="tritonserver",
            found=triton or "not found",
            good=triton is not None,
            purpose="ingot triton",
            mend="" if triton else lacking[0],
        ),
    ]


def total_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) << 10
    return 0


def gpus() -> list[Finding]:
    """What torch sees; none is fine, the cpu target needs none."""
    if find_spec("torch") is None:
        return []
    import torch

    if not torch.cuda.is_available():
        driver = Path("/proc/driver/nvidia/version")
        mend = f"The driver is there, but torch {torch.__version__} cannot use it: install a CUDA build of torch."
        return [Finding(what="GPU", found="none that torch sees", good=False, mend=mend if driver.is_file() else "")]
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        sm = 10 * properties.major + properties.minor
        found.append(
            Finding(
                what=f"GPU {index}",
                found=f"{properties.name}, SM {sm / 10}, {human(properties.total_memory)}, CUDA {torch.version.cuda}",
                good=sm >= LEAST_SM,
                mend="" if sm >= LEAST_SM else f"The cuda target needs SM {LEAST_SM / 10} or newer.",
            )
        )
    return found


def packages() -> list[Finding]:
    found = []
    for name, (extra, purpose, needed) in PACKAGES.items():
        have = installed(name)
        mend = "" if have else INSTALL.get(name, f"pip install 'ingot[{extra}]'")
        found.append(
            Finding(
                what=name,
                found=have or "not installed",
                good=have is not None,
                needed=needed,
                purpose=purpose,
                mend=mend,
            )
        )
    return found


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def targets() -> list[Finding]:
    """Those that this machine can build engines for."""
    gpu = find_spec("torch") is not None and (gpu_sm() or 0) >= LEAST_SM
    needs = {"cuda": gpu, "tensorrt": gpu and has("tensorrt"), "tensorrt-rtx": has("tensorrt-rtx")}
    return [Finding(what="targets", found=", ".join(name for name in COMPILERS if needs.get(name, True)), good=True)]


def has(target: str) -> bool:
    return installed(LIBRARIES[target].package) is not None
