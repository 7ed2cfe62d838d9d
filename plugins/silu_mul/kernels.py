"""silu(gate) * up with the rounding for the next GEMM. Triton only."""

import triton
import triton.language as tl

from ingot.plugins.quantize.kernels import after_previous, store_row


@triton.jit
def silu_mul_kernel(gate_up, out, width, BLOCK: tl.constexpr, PDL: tl.constexpr = 0):
    """gate_up (T, 2 * width) -> out (T, width), any float type. Grid (T, columns / BLOCK)."""
    after_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(gate_up + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def silu_mul_quantize_kernel(gate_up, pre_scale, input_scale, out, out_scale, width, PRE: tl.constexpr, MODE: tl.constexpr,
                             STATIC: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr = 0):  # fmt: skip
    """The same into e4m3 or int8: one program a row, since a row shares one scale."""
    after_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(gate_up + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    value = gate * tl.sigmoid(gate) * up
    store_row(value, column, inside, width, pre_scale, input_scale, out, out_scale, PRE, MODE, STATIC)
