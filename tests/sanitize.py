"""The kernel tests' smallest shapes under NVIDIA's compute-sanitizer: python tests/sanitize.py [TOOL...] [TESTS...]. Last line: JSON.

memcheck finds reads and writes out of bounds, racecheck hazards in shared memory, initcheck reads of memory that nobody
wrote. PyTorch's caching allocator is off meanwhile, so that bounds are those of tensors; its own kernels and the libraries'
are not looked at, save by initcheck, which must see who writes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("memcheck", "racecheck", "initcheck")
FOREIGN = ("at6native", "nvjet", "cutlass", "cublas", "cub", "memset")  # in kernels' mangled names
# racecheck breaks off with an error of its own ("failed to handle a hardware exception") in kernels of warpgroup products: gated.cu, prefill.cu
# and Triton's FP8 GEMM. Of ours, the interpreter of PTX looks for races instead (tests/plugins/test_*_ptx.py). initcheck does not see what
# cuBLASLt stores by TMA, and blames who reads it.
UNTRACED = {"racecheck": " and not gated and not tiled and not prefill and not wanted", "initcheck": " and not wanted"}
EXCLUSIONS = ("--kernel-name-exclude", "--kernel-regex-exclude")
TESTS = "not whatever_the_chooser and not 14336 and not 4096-4096 and not 2048"
FOUND = 9  # exit code where something was found
LIMIT_SECONDS = 580


def find_tool() -> str | None:
    """On PATH, in a toolkit, or from the wheel nvidia-cuda-sanitizer-api."""
    places = [os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/bin", "/usr/local/cuda/compute-sanitizer"]
    spec = importlib.util.find_spec("nvidia")
    for package in spec.submodule_search_locations or [] if spec else []:
        places += [str(path) for path in Path(package).glob("*/compute-sanitizer")]
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(places))


@cache
def exclusion(sanitizer: str) -> str:
    """The option that leaves kernels out; older toolkits have the second name."""
    told = subprocess.run([sanitizer, "--help"], capture_output=True, text=True, check=False).stdout
    return next((name for name in EXCLUSIONS if name in told), EXCLUSIONS[0])


def command(sanitizer: str, tool: str, tests: list[str]) -> list[str]:
    """Only this process is watched, not the compilers it starts."""
    words = [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), "--target-processes", "application-only"]
    words += ["--launch-timeout", "0", "--print-limit", "20"]
    if tool != "initcheck":
        words += [word for name in FOREIGN for word in (exclusion(sanitizer), f"kns={name}")]
    pytest = ["-m", "pytest", "-q", "-x", "-m", "gpu", "-p", "no:cacheprovider"]
    pytest += ["-k", TESTS + UNTRACED.get(tool, ""), *tests]
    return [*words, sys.executable, *pytest, "-o", "timeout=0"]


def run(sanitizer: str, tool: str, tests: list[str]) -> dict[str, object]:
    """One tool's verdict: clean, found, failed (the tests themselves) or late."""
    env = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "INGOT_OVERLAP": "0"}
    begin = time.monotonic()
    try:
        done = subprocess.run(
            command(sanitizer, tool, tests),
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=LIMIT_SECONDS,
        )
        verdict = {0: "clean", FOUND: "found"}.get(done.returncode, "failed")
        said = done.stdout
    except subprocess.TimeoutExpired as late:
        verdict, said = "late", (late.stdout or b"").decode(errors="replace")
    print(said[-8000:])
    summary = re.findall(r"========= (.*SUMMARY.*)", said)
    ran = re.findall(r"\d+ (?:passed|failed)[^\n]*", said)
    if verdict == "clean" and not ran:
        verdict = "failed"  # the tool ended well without having run them
    return {
        "tool": tool,
        "verdict": verdict,
        "summary": summary[-1:],
        "tests": ran[-1:],
        "seconds": round(time.monotonic() - begin),
    }


def main() -> None:
    sanitizer = find_tool()
    if sanitizer is None:
        sys.exit(
            "compute-sanitizer was not found. It comes with the CUDA toolkit, or: pip install nvidia-cuda-sanitizer-api"
        )
    tests = [word for word in sys.argv[1:] if (ROOT / word.partition("::")[0]).exists()]
    if unknown := set(sys.argv[1:]) - set(TOOLS) - set(tests):
        sys.exit(
            f"No such tool or test: {', '.join(sorted(unknown))}. There are {', '.join(TOOLS)}, and files of tests."
        )
    tools = [word for word in sys.argv[1:] if word in TOOLS] or TOOLS
    verdicts = [run(sanitizer, tool, tests or ["tests/plugins"]) for tool in tools]
    for verdict in verdicts:
        print(f"{verdict['tool']}: {verdict['verdict']}, {verdict['seconds']} s")
    print(json.dumps({"sanitizer": sanitizer, "verdicts": verdicts}))
    sys.exit(any(verdict["verdict"] != "clean" for verdict in verdicts))


if __name__ == "__main__":
    main()
