"""The cuda target: on the GPU at hand, finds the fastest way to run each linear and compiles the CUDA C++ kernels it takes.

Fills folder/kernels with choices.json and cubins. Triton's own kernels are not packed: its cache holds absolute paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ingot.builder.targets import Compiled, CompileJob


def compile_engine(job: CompileJob, folder: Path) -> Compiled:
    """Needs an NVIDIA GPU (see targets.compiler_of): kernels are chosen by measuring them."""
    import torch
    from safetensors.torch import load_file

    from ingot.plugins.attention.launch import compile_decode
    from ingot.plugins.cuda_ops import check_supported, usable
    from ingot.plugins.dtypes import torch_dtype
    from ingot.plugins.linear.launch import BUCKETS
    from ingot.plugins.linear.tune import tune, write_choices
    from ingot.plugins.load import read_weights

    check_supported(job.config)
    dtype, kv_dtype = torch_dtype(job.dtype), torch_dtype(job.kv_dtype)
    kernels = folder / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    with kernel_cache(kernels / "cubin"), torch.inference_mode():
        tensors = {
            name: x
            for folder in job.weights
            for path in sorted(folder.glob("*.safetensors"))
            for name, x in load_file(path, device="cuda").items()
        }
        weights = {
            name: usable(weight, dtype)
            for name, weight in read_weights(tensors, job.config).items()
            if "kv_scale" not in name
        }
        rows = [size for size in BUCKETS if size <= min(256, job.limits.max_num_batched_tokens)]
        write_choices(tune(weights, rows, dtype), kernels / "choices.json")
        compile_decode(
            job.config, job.limits.max_num_seqs, job.limits.max_model_len, job.limits.page_size, dtype, kv_dtype
        )
    job.advance(job.config.num_layers + 1)
    major, minor = torch.cuda.get_device_capability()
    return Compiled(sm=[10 * major + minor], versions={"cuda": str(torch.version.cuda)})


@contextmanager
def kernel_cache(folder: Path) -> Iterator[None]:
    """Compiled kernels go to `folder` meanwhile."""
    before = os.environ.get("INGOT_KERNELS")
    os.environ["INGOT_KERNELS"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["INGOT_KERNELS"]
        else:
            os.environ["INGOT_KERNELS"] = before
