"""Split qkv, q/k norm where the model has it, rotate (arXiv:2104.09864), write k and v to the paged cache. Triton only.

Arguments that change from step to step are not specialized on: nothing is compiled once an engine serves.
"""

import triton
import triton.language as tl

from ingot.plugins.quantize.kernels import after_previous


@triton.jit(do_not_specialize=["positions", "slots", "num_heads", "num_kv_heads", "rotated"])
def rope_kernel(
    qkv, positions, slots, cos_sin, q_norm, k_norm, q_out, cache, k_scale, v_scale, eps, value_offset: tl.int64, num_heads, num_kv_heads,
    rotated, QK_NORM: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, PAGE: tl.constexpr, HEADS: tl.constexpr, PDL: tl.constexpr = 0,
):  # fmt: skip
    """One program: HEADS of the H queries or of the 2K keys and values of one token. The first programs take queries, of the
    first `rotated` tokens alone. cos_sin (positions, D): cosines, then sines, float32.

    cache: [2][pages][K][PAGE][D]; a token whose slot is negative is padding and writes nothing there.
    """
    after_previous(PDL)
    program, total = tl.program_id(0), num_heads + 2 * num_kv_heads
    later = program - rotated * tl.cdiv(num_heads, HEADS)  # negative: it takes queries
    i, first_head = tl.where(later < 0, program, later), tl.where(later < 0, 0, num_heads)
    count = tl.where(later < 0, num_heads, 2 * num_kv_heads)
    token = (i // tl.cdiv(count, HEADS)).to(tl.int64)
    head = first_head + i % tl.cdiv(count, HEADS) * HEADS + tl.arange(0, HEADS)
    j = tl.arange(0, HALF)
    inside = (head < first_head + count)[:, None] & (j < D // 2)[None, :]
    source = qkv + token * total * D + head[:, None] * D + j[None, :]
    low = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(source + D // 2, mask=inside, other=0.0).to(tl.float32)
    is_query, is_value = head < num_heads, head >= num_heads + num_kv_heads

    rotated_low, rotated_high = low, high
    if QK_NORM:
        inverse = tl.rsqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / D + eps)[:, None]
        weight = tl.where(is_query[:, None], q_norm + j[None, :], k_norm + j[None, :])
        rotated_low = low * inverse * tl.load(weight, mask=inside, other=0.0).to(tl.float32)
        rotated_high = high * inverse * tl.load(weight + D // 2, mask=inside, other=0.0).to(tl.float32)
    table = cos_sin + tl.maximum(tl.load(positions + token), 0).to(tl.int64) * D + j  # padding may stand at -1
    cos = tl.load(table, mask=j < D // 2, other=0.0)[None, :]
    sin = tl.load(table + D // 2, mask=j < D // 2, other=0.0)[None, :]
    first = tl.where(is_value[:, None], low, rotated_low * cos - rotated_high * sin)
    second = tl.where(is_value[:, None], high, rotated_high * cos + rotated_low * sin)

    target = q_out + token * num_heads * D + head[:, None] * D + j[None, :]
    tl.store(target, first.to(q_out.dtype.element_ty), mask=inside & is_query[:, None])
    tl.store(target + D // 2, second.to(q_out.dtype.element_ty), mask=inside & is_query[:, None])

    slot = tl.load(slots + token).to(tl.int64)
    kv_head = tl.where(is_value, head - num_heads - num_kv_heads, head - num_heads)
    scale = tl.where(is_value, v_scale, k_scale)[:, None]
    place = ((slot // PAGE) * num_kv_heads + kv_head) * PAGE + slot % PAGE
    place = tl.where(is_value, value_offset, 0) + place * D
    written = inside & ((head >= num_heads) & (slot + head >= head))[:, None]
    if cache.dtype.element_ty == tl.float8e4nv:
        first = tl.minimum(tl.maximum(first / scale, -448.0), 448.0)
        second = tl.minimum(tl.maximum(second / scale, -448.0), 448.0)
    tl.store(cache + place[:, None] + j[None, :], first.to(cache.dtype.element_ty), mask=written)
    tl.store(cache + place[:, None] + j[None, :] + D // 2, second.to(cache.dtype.element_ty), mask=written)
