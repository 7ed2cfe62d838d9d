"""Compiles Triton kernels for sm_90a on a machine without a GPU, as `packed` would find them compiled on one. Run as a program,
away from the interpreter: prints a JSON line a kernel.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec


@dataclass(frozen=True)
class Sample:
    """One launch: what stands in for each argument, and the options."""

    kernel: Any
    values: dict[str, Any]
    options: dict[str, Any] = field(default_factory=lambda: {"num_warps": 4, "num_stages": 3})


def samples() -> list[Sample]:
    import torch

    from ingot.plugins.attention import kernels as attention
    from ingot.plugins.linear import kernels as linear
    from ingot.plugins.rms_norm import kernels as rms_norm

    bf16, e4m3, f32, i32 = (
        torch.empty(16, dtype=dtype) for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float32, torch.int32)
    )
    norm = {"x": bf16, "residual": bf16, "weight": bf16, "pre_scale": bf16, "input_scale": bf16, "out": e4m3, "out_scale": f32,
            "eps": 1e-5, "width": 4096, "ADD": True, "PRE": False, "MODE": 1, "STATIC": False, "BLOCK": 4096, "PDL": 1}  # fmt: skip
    prefill = {"q": bf16, "cache": e4m3, "page_table": i32, "rows": i32, "query_starts": i32, "lengths": i32, "tile_seqs": i32,
               "tile_starts": i32, "out": bf16, "score_scale": 0.1, "v_scale": 1.0, "value_offset": 1 << 20, "max_pages": 256,
               "num_kv_heads": 1, "WINDOW": 0, "HAS_ROWS": True, "G": 4, "D": 128, "DP": 128, "PAGE": 32, "BM": 128, "BN": 64,
               "PDL": 0}  # fmt: skip
    gemm = {"x": e4m3, "w": e4m3, "x_scale": f32, "w_scale": f32, "bias": e4m3, "out": bf16, "m_rows": 64, "n_rows": 4096, "k": 4096,
            "SCALED": True, "BIAS": False, "BM": 64, "BN": 64, "BK": 128, "GROUP": 8, "PDL": 2}  # fmt: skip
    return [
        Sample(rms_norm.add_rms_norm_kernel, norm, {"num_warps": 8, "num_stages": 3, "launch_pdl": True}),
        Sample(attention.prefill_kernel, prefill),
        Sample(linear.scaled_gemm_kernel, gemm),
    ]


def compiled(sample: Sample) -> Any:
    """Triton's CompiledKernel of the sample, specialized as a launch would."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ingot.plugins.packed import parameters, specialization

    signature, constants, attributes = {}, {}, {}
    for place, p in enumerate(parameters(sample.kernel)):
        kind = "constexpr" if p.constant else specialization(p, sample.values[p.name])
        if kind in ("constexpr", "1"):
            signature[p.name], constants[p.name] = "constexpr", sample.values[p.name]
            continue
        if kind.endswith("D"):
            attributes[(place,)] = [["tt.divisibility", 16]]
        names = {"*bfloat16": "*bf16", "*float8_e4m3fn": "*fp8e4nv", "*float32": "*fp32", "*int32": "*i32", "f": "fp32"}
        signature[p.name] = names.get(kind.removesuffix("D"), kind.removesuffix("D"))
    source = ASTSource(fn=sample.kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=sample.options)


def main() -> None:
    from ingot.plugins.packed import describe, key_of, passed

    for sample in samples():
        made = compiled(sample)
        entry = describe(made, passed(sample.kernel, sample.values))
        line = {"key": key_of(sample.kernel, sample.values, sample.options), "wgmma": "wgmma" in made.asm["ptx"]}
        print(json.dumps(line | msgspec.to_builtins(entry) | {"bytes": len(made.asm["cubin"])}))


if __name__ == "__main__":
    main()
