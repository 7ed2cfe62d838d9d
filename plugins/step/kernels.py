"""Turns a step's plain integers into what the decoder asks for, on the GPU. Triton only.

Arguments that change from step to step are not specialized on: nothing is compiled once an engine serves.
"""

import triton
import triton.language as tl

from ingot.plugins.quantize.kernels import after_previous


@triton.jit(do_not_specialize=["deltas", "count"])
def write_pages_kernel(deltas, page_table, count, max_pages, BLOCK: tl.constexpr, PDL: tl.constexpr = 0):
    """deltas (3, count): row, index, page -> page_table[row, index] = page."""
    after_previous(PDL)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = i < count
    row = tl.load(deltas + i, mask=real, other=0)
    index = tl.load(deltas + count + i, mask=real, other=0)
    tl.store(
        page_table + row.to(tl.int64) * max_pages + index,
        tl.load(deltas + 2 * count + i, mask=real, other=0),
        mask=real,
    )


@triton.jit(do_not_specialize=["inputs", "token_ids", "slots", "lengths", "count"])
def prepare_kernel(
    inputs,
    page_table,
    last_tokens,
    token_ids,
    slots,
    lengths,
    count,
    max_pages,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr = 0,
):
    """inputs (4, count): row (-1: padding), position, token (-1: the row's last), new page (-1: none) of each token.

    A new page belongs to its token's own position. Padding gets slot -1 and length 0, so that nothing is written or read.
    """
    after_previous(PDL)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    row = tl.load(inputs + i, mask=inside, other=-1)
    real = inside & (row >= 0)
    position = tl.load(inputs + count + i, mask=real, other=0)
    token = tl.load(inputs + 2 * count + i, mask=real, other=0)
    page = tl.load(inputs + 3 * count + i, mask=real, other=-1)
    entry = page_table + row.to(tl.int64) * max_pages + position // PAGE
    tl.store(entry, page, mask=real & (page >= 0))
    page = tl.where(page >= 0, page, tl.load(entry, mask=real & (page < 0), other=0))
    token = tl.where(token >= 0, token, tl.load(last_tokens + row, mask=real & (token < 0), other=0))
    tl.store(token_ids + i, token, mask=inside)
    tl.store(slots + i, tl.where(real, page * PAGE + position % PAGE, -1), mask=inside)
    tl.store(lengths + i, tl.where(real, position + 1, 0), mask=inside)
