"""Rounds rows of activations to e4m3 or int8, per token or by a calibrated scale. Triton only."""

import triton
import triton.language as tl

FLOAT, FP8, INT8 = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def after_previous(PDL: tl.constexpr):
    """In every kernel: waits for the stream's previous kernel. PDL 2 lets the next one start at once, 1 at this one's end. See
    overlap.py."""
    if PDL == 2:
        tl.extra.cuda.gdc_launch_dependents()
    if PDL > 0:
        tl.extra.cuda.gdc_wait()


@triton.jit
def store_row(value, column, inside, width, pre_scale, input_scale, out, out_scale, PRE: tl.constexpr, MODE: tl.constexpr,
              STATIC: tl.constexpr, SATURATES: tl.constexpr = False):  # fmt: skip
    """Ends a kernel of one row a program: multiplies by pre_scale, rounds float32 `value` to out's type, stores its scale.

    SATURATES: the conversion to e4m3 clamps by itself, as a GPU's does.
    """
    row = tl.program_id(0).to(tl.int64)
    if PRE:
        value *= tl.load(pre_scale + column, mask=inside, other=0.0).to(tl.float32)
    if MODE == FLOAT:
        tl.store(out + row * width + column, value.to(out.dtype.element_ty), mask=inside)
    else:
        limit: tl.constexpr = 448.0 if MODE == FP8 else 127.0
        lowest: tl.constexpr = -448.0 if MODE == FP8 else -128.0
        if STATIC:
            scale = tl.load(input_scale)
        else:
            amax = tl.max(tl.abs(value), 0)
            scale = tl.where(amax > 0, tl.maximum(tl.div_rn(amax, limit), 1.1754944e-38), 1.0)
        value = value * (1.0 / scale)
        if MODE != FP8 or not SATURATES:
            value = tl.minimum(tl.maximum(value, lowest), limit)
        if MODE == INT8:
            value = (value + 12582912.0) - 12582912.0  # to the nearest even integer: float32 has no bits left for more
        tl.store(out + row * width + column, value.to(out.dtype.element_ty), mask=inside)
        tl.store(out_scale + row, scale)


@triton.jit
def quantize_kernel(x, pre_scale, input_scale, out, out_scale, width, PRE: tl.constexpr, MODE: tl.constexpr,
                    STATIC: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr = 0):  # fmt: skip
    after_previous(PDL)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + tl.program_id(0).to(tl.int64) * width + column, mask=inside, other=0.0).to(tl.float32)
    store_row(value, column, inside, width, pre_scale, input_scale, out, out_scale, PRE, MODE, STATIC)
