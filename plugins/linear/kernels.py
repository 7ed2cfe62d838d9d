"""GEMMs that cuBLASLt lacks or does badly: int8 with both scales applied, int4 weights against float rows. Triton only.

Arguments that change from step to step are not specialized on: nothing is compiled once an engine serves.
"""

import triton
import triton.language as tl

from ingot.plugins.quantize.kernels import after_previous


@triton.jit
def tile_of(m_rows, n_rows, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr):
    """Program id -> tile, in bands of GROUP row tiles so that neighbours share weights in L2."""
    pid = tl.program_id(0)
    tiles_m, tiles_n = tl.cdiv(m_rows, BM), tl.cdiv(n_rows, BN)
    band = pid // (GROUP * tiles_n)
    height = tl.minimum(tiles_m - band * GROUP, GROUP)
    inside = pid % (GROUP * tiles_n)
    return band * GROUP + inside % height, inside // height


@triton.jit(do_not_specialize=["m_rows"])
def scaled_gemm_kernel(
    x, w, x_scale, w_scale, bias, out, m_rows, n_rows, k,
    SCALED: tl.constexpr, BIAS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PDL: tl.constexpr = 0,
):  # fmt: skip
    """out (M, N) = x (M, K) . w (N, K)^T * x_scale (M,) * w_scale (N,) + bias. int8, e4m3 or float operands."""
    after_previous(PDL)
    tile_m, tile_n = tile_of(m_rows, n_rows, BM, BN, GROUP)
    m, n, kk = tile_m * BM + tl.arange(0, BM), tile_n * BN + tl.arange(0, BN), tl.arange(0, BK)
    xp = x + (m % m_rows).to(tl.int64)[:, None] * k + kk[None, :]
    wp = w + (n % n_rows).to(tl.int64)[None, :] * k + kk[:, None]
    integer: tl.constexpr = x.dtype.element_ty == tl.int8
    acc = tl.zeros([BM, BN], tl.int32 if integer else tl.float32)
    for at in range(0, k, BK):
        a = tl.load(xp, mask=(kk < k - at)[None, :], other=0.0)
        b = tl.load(wp, mask=(kk < k - at)[:, None], other=0.0)
        acc = tl.dot(a, b, acc=acc, out_dtype=tl.int32 if integer else tl.float32)
        xp += BK
        wp += BK
    value = acc.to(tl.float32)
    if SCALED:
        value *= (
            tl.load(x_scale + m, mask=m < m_rows, other=0.0)[:, None]
            * tl.load(w_scale + n, mask=n < n_rows, other=0.0)[None, :]
        )
    if BIAS:
        value += tl.load(bias + n, mask=n < n_rows, other=0.0).to(tl.float32)[None, :]
    place = out + m.to(tl.int64)[:, None] * n_rows + n[None, :]
    tl.store(place, value.to(out.dtype.element_ty), mask=(m < m_rows)[:, None] & (n < n_rows)[None, :])


@triton.jit(do_not_specialize=["m_rows"])
def int4_gemm_kernel(
    x, w, w_scale, bias, out, m_rows, n_rows, k,
    BIAS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, GROUP_K: tl.constexpr, GROUP: tl.constexpr, PDL: tl.constexpr = 0,
):  # fmt: skip
    """out (M, N) = x (M, K) . w^T. w (N, K/2): low nibble = even k, two's complement; w_scale (N, K/GROUP_K) float32.

    One quantization group a step: even and odd columns of x meet low and high nibbles in two products.
    """
    after_previous(PDL)
    tile_m, tile_n = tile_of(m_rows, n_rows, BM, BN, GROUP)
    m, n, kk = tile_m * BM + tl.arange(0, BM), tile_n * BN + tl.arange(0, BN), tl.arange(0, GROUP_K // 2)
    xp = x + (m % m_rows).to(tl.int64)[:, None] * k + 2 * kk[None, :]
    column = (n % n_rows).to(tl.int64)
    wp = w + column[None, :] * (k // 2) + kk[:, None]
    sp = w_scale + column * (k // GROUP_K)
    acc = tl.zeros([BM, BN], tl.float32)
    for group in range(k // GROUP_K):
        packed = tl.load(wp).to(tl.int8, bitcast=True)
        even, odd = tl.load(xp), tl.load(xp + 1)
        low = ((packed << 4).to(tl.int8) >> 4).to(x.dtype.element_ty)
        high = (packed >> 4).to(x.dtype.element_ty)
        part = tl.dot(even, low)
        part = tl.dot(odd, high, acc=part)
        acc += part * tl.load(sp + group)[None, :]
        xp += GROUP_K
        wp += GROUP_K // 2
    if BIAS:
        acc += tl.load(bias + n, mask=n < n_rows, other=0.0).to(tl.float32)[None, :]
    place = out + m.to(tl.int64)[:, None] * n_rows + n[None, :]
    tl.store(place, acc.to(out.dtype.element_ty), mask=(m < m_rows)[:, None] & (n < n_rows)[None, :])
