"""Greedy sampling: the index of each row's greatest logit, the lowest one on ties as torch.argmax on a CPU. Triton only.

Arguments that change from step to step are not specialized on: nothing is compiled once an engine serves.
"""

import triton
import triton.language as tl

from ingot.plugins.quantize.kernels import after_previous


@triton.jit(do_not_specialize=["parts"])
def argmax_part_kernel(
    logits, best, where, width, parts, SHARE: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr = 0
):
    """Grid (R, parts): the best of SHARE columns of one row. best, where: (R, parts)."""
    after_previous(PDL)
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane = tl.arange(0, BLOCK)
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    index = tl.full([BLOCK], 2147483647, tl.int32)
    for at in range(0, SHARE, BLOCK):
        column = part * SHARE + at + lane
        value = tl.load(logits + row * width + column, mask=column < width, other=float("-inf")).to(tl.float32)
        index = tl.where((value > top) | ((value == top) & (column < index)), column, index)
        top = tl.maximum(top, value)
    greatest = tl.max(top, 0)
    tl.store(best + row * parts + part, greatest)
    tl.store(where + row * parts + part, tl.min(tl.where(top == greatest, index, 2147483647), 0))


@triton.jit(do_not_specialize=["rows", "tokens", "last_tokens", "parts"])
def argmax_join_kernel(
    best, where, rows, tokens, last_tokens, parts, PARTS: tl.constexpr, FEED: tl.constexpr, PDL: tl.constexpr = 0
):
    """Grid (R,): the best of a row's parts -> tokens[r], and last_tokens[rows[r]] where the row is real (>= 0)."""
    after_previous(PDL)
    r = tl.program_id(0)
    lane = tl.arange(0, PARTS)
    top = tl.load(best + r * parts + lane, mask=lane < parts, other=float("-inf"))
    index = tl.load(where + r * parts + lane, mask=lane < parts, other=2147483647)
    token = tl.min(tl.where(top == tl.max(top, 0), index, 2147483647), 0)
    tl.store(tokens + r, token)
    if FEED:
        row = tl.load(rows + r)
        tl.store(last_tokens + row, token, mask=row >= 0)
