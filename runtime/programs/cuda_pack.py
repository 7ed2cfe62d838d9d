"""Makes a program and keeps the kernels that this compiled: part of a build, in a process of its own, where none is loaded yet.

An engine is loaded by making the same program, so it finds every kernel it launches. Run as
`python -m ingot.runtime.programs.cuda_pack JOB.json`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from ingot.manifest import Limits
from ingot.network.config import ModelConfig


class PackJob(msgspec.Struct, frozen=True, kw_only=True):
    config: ModelConfig
    weights: list[str]  # folders of *.safetensors
    kernels: str  # folder that holds choices.json and gets the kernels
    limits: Limits
    dtype: str
    kv_dtype: str


def pack_kernels(job: PackJob) -> None:
    from ingot.plugins import cubin, packed
    from ingot.plugins.attention.launch import compile_decode
    from ingot.plugins.dtypes import torch_dtype
    from ingot.plugins.linear.tune import read_choices
    from ingot.plugins.load import read_weights
    from ingot.plugins.quantize.launch import by_one_scale
    from ingot.runtime.programs.cuda import CHOICES, CUBINS, PACK, cuda_program
    from ingot.runtime.programs.tensors import read_tensors

    folder, config, limits = Path(job.kernels), job.config, job.limits
    dtype, kv_dtype = torch_dtype(job.dtype), torch_dtype(job.kv_dtype)
    tensors = {name: x for part in job.weights for name, x in read_tensors(Path(part), "cuda").items()}
    weights = read_weights(tensors, config)
    small = msgspec.structs.replace(limits, num_pages=-(-limits.max_model_len // limits.page_size))
    with packed.recording(folder / Path(PACK).name), cubin.recording(folder / Path(CUBINS).name):
        choices = read_choices(folder / Path(CHOICES).name)
        program = cuda_program(config, weights, small, dtype=dtype, kv_dtype=kv_dtype, choices=choices)
        rounds = any(by_one_scale(weights[f"layers.{layer}.o"]) for layer in range(config.num_layers))
        # A layer may be left as it was, and Triton's prefill leaves rounding to others.
        for way in (False, True) if rounds else (False,):
            compile_decode(
                config, limits.max_num_seqs, limits.max_model_len, limits.page_size, dtype, kv_dtype, rounds=way
            )
        program.close()


if __name__ == "__main__":
    pack_kernels(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=PackJob))
