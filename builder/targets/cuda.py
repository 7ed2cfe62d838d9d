"""The cuda target: on the GPU at hand, finds the fastest way to run each kernel and compiles all that an engine launches.

Fills folder/kernels with choices.json, cubins, and Triton's kernels as an index of binaries.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from ingot.builder.targets import Compiled, CompileJob
from ingot.errors import EngineError

PACKER = "ingot.runtime.programs.cuda_pack"  # a program: the process that serves makes the same one
MAX_SECONDS = 1800
MAX_QUOTE = 2000


def compile_engine(job: CompileJob, folder: Path) -> Compiled:
    """Needs an NVIDIA GPU (see targets.compiler_of): kernels are chosen by measuring them."""
    import torch

    kernels = folder / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    choose(job, kernels / "choices.json")
    torch.cuda.empty_cache()
    pack_kernels(job, kernels)
    job.advance(job.config.num_layers + 1)
    major, minor = torch.cuda.get_device_capability()
    return Compiled(sm=[10 * major + minor], versions={"cuda": str(torch.version.cuda)})


def choose(job: CompileJob, out: Path) -> None:
    """Writes the choices."""
    import torch
    from safetensors.torch import load_file

    from ingot.plugins.cuda_ops import check_supported, usable
    from ingot.plugins.dtypes import torch_dtype
    from ingot.plugins.linear.launch import BUCKETS
    from ingot.plugins.linear.tune import write_choices
    from ingot.plugins.load import read_weights
    from ingot.plugins.tune import tune_engine

    check_supported(job.config)
    dtype = torch_dtype(job.dtype)
    with torch.inference_mode():
        files = [path for folder in job.weights for path in sorted(folder.glob("*.safetensors"))]
        tensors = {name: x for path in files for name, x in load_file(path, device="cuda").items()}
        found = read_weights(tensors, job.config)
        weights = {name: usable(weight, dtype) for name, weight in found.items() if "kv_scale" not in name}
        rows = [size for size in BUCKETS if size <= min(256, job.limits.max_num_batched_tokens)]
        choices = tune_engine(
            job.config,
            weights,
            rows,
            dtype,
            torch_dtype(job.kv_dtype),
            page=job.limits.page_size,
            tokens=job.limits.max_num_batched_tokens,
            seqs=job.limits.max_num_seqs,
        )
        write_choices(choices, out)


def pack_kernels(job: CompileJob, kernels: Path) -> None:
    """Has the runtime make the engine's program once in a process of its own, and keep what that compiles."""
    asked = {
        "config": job.config,
        "weights": [str(folder) for folder in job.weights],
        "kernels": str(kernels),
        "limits": job.limits,
        "dtype": job.dtype,
        "kv_dtype": job.kv_dtype,
    }
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(msgspec.json.encode(asked))
        file.flush()
        try:
            done = subprocess.run(
                [sys.executable, "-m", PACKER, file.name],
                capture_output=True,
                text=True,
                check=False,
                timeout=MAX_SECONDS,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as late:
            raise EngineError(
                f"Compiling the engine's kernels took more than {MAX_SECONDS} s.",
                mend="Free the machine and build again.",
            ) from late
    if done.returncode:
        raise EngineError(
            f"Compiling the engine's kernels failed: {done.stderr.strip()[-MAX_QUOTE:]}",
            mend="`ingot doctor` says what this machine lacks.",
        )
