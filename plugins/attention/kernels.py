"""Paged attention in Triton: decode with split KV for any head dim, and causal prefill over prefix and new tokens.

Cache: [2][pages][K][PAGE][D]. Online softmax of FlashAttention (arXiv:2205.14135, 2307.08691) in base 2: `score_scale`
holds log2(e). FP8 caches are read as float16, which holds e4m3 exactly and converts natively.
"""

import triton
import triton.language as tl

from ingot.plugins.quantize.kernels import after_previous


@triton.jit
def cache_offsets(table, token, inside, head, num_kv_heads, PAGE: tl.constexpr, D: tl.constexpr):
    """Element offset of each token's row in the cache; 0 where not inside."""
    page = tl.load(table + token // PAGE, mask=inside, other=0).to(tl.int64)
    return ((page * num_kv_heads + head) * PAGE + token % PAGE) * D


@triton.jit
def attend(q, cache, value_offset, table, token, inside, visible, top, total, acc, head, num_kv_heads, score_scale,
           MASKED: tl.constexpr, PAGE: tl.constexpr, D: tl.constexpr, DP: tl.constexpr):  # fmt: skip
    """One tile of keys and values folded into the running maximum, sum and output of every query row."""
    d = tl.arange(0, DP)
    row = cache_offsets(table, token, inside, head, num_kv_heads, PAGE, D)
    if MASKED or DP != D:
        real = inside[:, None] & (d < D)[None, :]
        k = tl.load(cache + row[:, None] + d[None, :], mask=real, other=0.0).to(q.dtype)
        v = tl.load(cache + value_offset + row[:, None] + d[None, :], mask=real, other=0.0).to(q.dtype)
    else:
        k = tl.load(cache + row[:, None] + d[None, :]).to(q.dtype)
        v = tl.load(cache + value_offset + row[:, None] + d[None, :]).to(q.dtype)
    scores = tl.dot(q, tl.trans(k)) * score_scale
    if MASKED:
        scores = tl.where(visible, scores, -1.0e30)
    best = tl.maximum(top, tl.max(scores, 1))
    decay = tl.exp2(top - best)
    p = tl.exp2(scores - best[:, None])
    if MASKED:
        p = tl.where(visible, p, 0.0)
    acc = tl.dot(p.to(q.dtype), v, acc=acc * decay[:, None])
    return best, total * decay + tl.sum(p, 1), acc


@triton.jit(do_not_specialize=["slots"])
def write_kernel(k, v, slots, cache, k_scale, v_scale, value_offset: tl.int64, num_kv_heads,
                 HEADS: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, PAGE: tl.constexpr, PDL: tl.constexpr = 0):  # fmt: skip
    """Grid (T, ceil(K / HEADS)): one token's keys and values (T, K, D) to its slot; none where that is negative."""
    after_previous(PDL)
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token).to(tl.int64)
    if slot < 0:
        return
    head, d = tl.program_id(1) * HEADS + tl.arange(0, HEADS), tl.arange(0, DP)
    inside = (head < num_kv_heads)[:, None] & (d < D)[None, :]
    source = (token * num_kv_heads + head)[:, None] * D + d[None, :]
    place = (((slot // PAGE) * num_kv_heads + head) * PAGE + slot % PAGE)[:, None] * D + d[None, :]
    key = tl.load(k + source, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(v + source, mask=inside, other=0.0).to(tl.float32)
    if cache.dtype.element_ty == tl.float8e4nv:
        key = tl.minimum(tl.maximum(key / k_scale, -448.0), 448.0)
        value = tl.minimum(tl.maximum(value / v_scale, -448.0), 448.0)
    tl.store(cache + place, key.to(cache.dtype.element_ty), mask=inside)
    tl.store(cache + value_offset + place, value.to(cache.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["query_starts", "num_seqs"])
def tiles_kernel(
    query_starts, tile_seqs, tile_starts, num_seqs, TOKENS: tl.constexpr, SEQS: tl.constexpr, PDL: tl.constexpr = 0
):
    """Grid (tiles,): what tiles.py plans, without asking the host for the counts; SEQS bounds num_seqs.

    There are at most T // TOKENS + S tiles; those beyond the real ones start past their sequence's end.
    """
    after_previous(PDL)
    tile, s = tl.program_id(0), tl.arange(0, SEQS)
    real = s < num_seqs
    count = tl.load(query_starts + s + 1, mask=real, other=0) - tl.load(query_starts + s, mask=real, other=0)
    share = tl.cdiv(count, TOKENS)
    end = tl.cumsum(share, 0)
    seq = tl.minimum(tl.sum(((end <= tile) & real).to(tl.int32), 0), num_seqs - 1)
    first = tl.sum(tl.where(s == seq, end - share, 0), 0)
    tl.store(tile_seqs + tile, seq)
    tl.store(tile_starts + tile, (tile - first) * TOKENS)


@triton.jit(do_not_specialize=["rows", "lengths", "splits"])
def decode_kernel(
    q, cache, page_table, rows, lengths, out, partial, score_scale, v_scale, value_offset: tl.int64, max_pages, num_kv_heads, splits,
    WINDOW: tl.constexpr, HAS_ROWS: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, PAGE: tl.constexpr, TILE: tl.constexpr, PDL: tl.constexpr = 0,
):  # fmt: skip
    """Grid (splits, K, S): the G query heads of one KV head, padded to GP rows, over one split of one sequence's context.

    Writes `out` when splits is 1, else unnormalized output, maximum and sum to partial (S, K, splits, G, D + 2).
    """
    after_previous(PDL)
    split, head, seq = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    length = tl.load(lengths + seq)
    if length <= 0:
        return
    place = tl.load(rows + seq).to(tl.int64) if HAS_ROWS else seq
    g, d = tl.arange(0, GP), tl.arange(0, DP)
    real = (g < G)[:, None] & (d < D)[None, :]
    query = (seq * num_kv_heads + head) * G + g
    x = tl.load(q + query[:, None] * D + d[None, :], mask=real, other=0.0)
    if cache.dtype.element_ty == tl.float8e4nv:
        x = x.to(tl.float16)
    first = 0
    if WINDOW > 0:
        first = tl.maximum(length - WINDOW, 0)
    low_tile, high_tile = first // TILE, tl.cdiv(length, TILE)
    share = tl.cdiv(high_tile - low_tile, splits)
    begin = low_tile + split * share
    top = tl.full([GP], -1.0e30, tl.float32)
    total = tl.zeros([GP], tl.float32)
    acc = tl.zeros([GP, DP], tl.float32)
    for tile in range(begin, tl.minimum(begin + share, high_tile)):
        token = tile * TILE + tl.arange(0, TILE)
        inside = (token < length) & (token >= first)
        top, total, acc = attend(x, cache, value_offset, page_table + place * max_pages, token, inside, inside[None, :], top, total, acc,
                                 head, num_kv_heads, score_scale, True, PAGE, D, DP)  # fmt: skip
    if splits == 1:
        result = acc / total[:, None] * v_scale
        tl.store(out + query[:, None] * D + d[None, :], result.to(out.dtype.element_ty), mask=real)
    else:
        base = partial + (((seq * num_kv_heads + head) * splits + split) * G + g) * (D + 2)
        tl.store(base[:, None] + d[None, :], acc, mask=real)
        tl.store(base + D, top, mask=g < G)
        tl.store(base + D + 1, total, mask=g < G)


@triton.jit(do_not_specialize=["lengths", "splits"])
def combine_kernel(partial, lengths, out, v_scale, num_kv_heads, splits, G: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
                   SP: tl.constexpr, PDL: tl.constexpr = 0):  # fmt: skip
    """Grid (K * G, S): joins the splits of one query head by their maxima and sums (Flash-Decoding)."""
    after_previous(PDL)
    seq = tl.program_id(1).to(tl.int64)
    if tl.load(lengths + seq) <= 0:
        return
    head, g = tl.program_id(0) // G, tl.program_id(0) % G
    s, d = tl.arange(0, SP), tl.arange(0, DP)
    base = partial + (((seq * num_kv_heads + head) * splits + s) * G + g) * (D + 2)
    top = tl.load(base + D, mask=s < splits, other=-2.0e30)
    weight = tl.exp2(top - tl.max(top, 0))
    total = tl.sum(tl.load(base + D + 1, mask=s < splits, other=0.0) * weight, 0)
    acc = tl.load(base[:, None] + d[None, :], mask=(s < splits)[:, None] & (d < D)[None, :], other=0.0)
    result = tl.sum(acc * weight[:, None], 0) / total * v_scale
    tl.store(out + (seq * num_kv_heads * G + tl.program_id(0)) * D + d, result.to(out.dtype.element_ty), mask=d < D)


@triton.jit(do_not_specialize=["rows", "query_starts", "lengths", "tile_seqs", "tile_starts"])
def prefill_kernel(
    q, cache, page_table, rows, query_starts, lengths, tile_seqs, tile_starts, out, score_scale, v_scale, value_offset: tl.int64, max_pages,
    num_kv_heads,
    WINDOW: tl.constexpr, HAS_ROWS: tl.constexpr, G: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, PAGE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, PDL: tl.constexpr = 0,
):  # fmt: skip
    """Grid (tiles, K): BM // G consecutive query tokens of one sequence with their G heads each, over all keys they may see.

    tile_seqs, tile_starts: which sequence, and its first query token counted within the sequence's slice.
    """
    after_previous(PDL)
    seq = tl.load(tile_seqs + tl.program_id(0)).to(tl.int64)
    start = tl.load(tile_starts + tl.program_id(0))
    head = tl.program_id(1)
    place = tl.load(rows + seq).to(tl.int64) if HAS_ROWS else seq
    table = page_table + place * max_pages
    first_row = tl.load(query_starts + seq)
    count = tl.load(query_starts + seq + 1) - first_row
    length = tl.load(lengths + seq)
    if start >= count:  # a tile that nothing was left for
        return
    tokens: tl.constexpr = BM // G
    r, d = tl.arange(0, BM), tl.arange(0, DP)
    query = start + r // G
    row = ((first_row + query).to(tl.int64) * num_kv_heads + head) * G + r % G
    real = ((query < count) & (r < tokens * G))[:, None] & (d < D)[None, :]
    x = tl.load(q + row[:, None] * D + d[None, :], mask=real, other=0.0)
    if cache.dtype.element_ty == tl.float8e4nv:
        x = x.to(tl.float16)
    position = length - count + query
    first_position = length - count + start
    end = tl.minimum(first_position + tokens, length)
    begin = 0
    if WINDOW > 0:
        begin = tl.maximum(first_position - WINDOW + 1, 0) // BN * BN
    top = tl.full([BM], -1.0e30, tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, DP], tl.float32)
    clear = begin  # keys before it are visible to every query of the tile: no masks
    if WINDOW == 0:
        clear = (first_position + 1) // BN * BN
    for tile in range(begin, clear, BN):
        token = tile + tl.arange(0, BN)
        top, total, acc = attend(x, cache, value_offset, table, token, token >= 0, token[None, :] >= 0, top, total, acc, head,
                                 num_kv_heads, score_scale, False, PAGE, D, DP)  # fmt: skip
    for tile in range(clear, end, BN):
        token = tile + tl.arange(0, BN)
        visible = token[None, :] <= position[:, None]
        if WINDOW > 0:
            visible = visible & (token[None, :] > position[:, None] - WINDOW)
        top, total, acc = attend(x, cache, value_offset, table, token, token < end, visible, top, total, acc, head,
                                 num_kv_heads, score_scale, True, PAGE, D, DP)  # fmt: skip
    result = acc / tl.where(total > 0, total, 1.0)[:, None] * v_scale
    tl.store(out + row[:, None] * D + d[None, :], result.to(out.dtype.element_ty), mask=real)
