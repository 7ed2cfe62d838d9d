"""silu(gate) * up with the rounding for the next GEMM. Triton only."""

import triton
import triton.language as tl

from ingot.plugins.quantize.kernels import after_previous, store_row


@triton.jit
def silu(x, FAST: tl.constexpr):
    """FAST: with 1 / y as rsqrt(y)^2, since a division takes more instructions than the rest of the kernel."""
    if FAST:
        root = tl.rsqrt(1.0 + tl.exp2(x * -1.4426950408889634))
        return x * root * root
    else:
        return x * tl.sigmoid(x)


@triton.jit
def silu_mul_kernel(gate_up, out, width, FAST: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr = 0):
    """gate_up (T, 2 * width) -> out (T, width), any float type. Grid (T, columns / BLOCK)."""
    after_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(gate_up + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (silu(gate, FAST) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def silu_mul_quantize_kernel(gate_up, pre_scale, input_scale, out, out_scale, width, PRE: tl.constexpr, MODE: tl.constexpr,
                             STATIC: tl.constexpr, FAST: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr = 0):  # fmt: skip
    """The same into e4m3 or int8: one program a row, since a row shares one scale."""
    after_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(gate_up + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    value = silu(gate, FAST) * up
    store_row(value, column, inside, width, pre_scale, input_scale, out, out_scale, PRE, MODE, STATIC, FAST)
