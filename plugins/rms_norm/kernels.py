"""Residual add + RMS norm (arXiv:1910.07467) + rounding for the next GEMM, one program a row. Triton only."""

import triton
import triton.language as tl

from ingot.plugins.quantize.kernels import after_previous, store_row


@triton.jit
def add_rms_norm_kernel(
    x, residual, weight, pre_scale, input_scale, out, out_scale, eps, width,
    ADD: tl.constexpr, PRE: tl.constexpr, MODE: tl.constexpr, STATIC: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr = 0,
):  # fmt: skip
    """out = norm(x + residual) * weight; residual <- x + residual in its own dtype. MODE as in quantize.store_row."""
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    inside = column < width
    gain = tl.load(weight + column, mask=inside, other=0.0)
    if ADD:
        past = tl.load(
            residual + row + column, mask=inside, other=0.0
        )  # the previous kernel is a linear: not its doing
    after_previous(PDL)
    value = tl.load(x + row + column, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += past.to(tl.float32)
        rounded = value.to(residual.dtype.element_ty)
        tl.store(residual + row + column, rounded, mask=inside)
        value = rounded.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(value * value, 0) / width + eps)
    value = value * inverse * gain.to(tl.float32)
    store_row(value, column, inside, width, pre_scale, input_scale, out, out_scale, PRE, MODE, STATIC)
