// Paged decode attention: one new token per sequence against its paged context, heads of one KV group together.
//
// Keys and values go straight from global memory to tensor-core registers: the contraction index of an mma may be
// permuted freely, so each lane loads 16 contiguous bytes of a token and calls them whatever fragment they fill.
//   scores^T (tokens x heads) = K (tokens x D) . Q^T (D x heads)      K rows are the A operand
//   out^T    (D x heads)      = V^T (D x tokens) . P^T                byte permutes pair the tokens of V
// FP8 becomes fp16 in registers, two bytes an instruction. Flash-decoding softmax (arXiv:2205.14135, 2311.01282).
//
// ROTATES: q is the qkv product itself. Each block rotates its queries (and norms them first, where there are weights to), and
// the warp that reads the newest token rotates and stores its key and value before: no kernel of its own for that.
//
// ROUNDS: out is e4m3 by one calibrated scale, which is also stored for every sequence: what the linear that reads it wants.
//
// Defined at compile time: ROTATES (0, 1: head dim 128 only), ROUNDS (0, 1), HEAD_DIM (64, 128), GROUP (query heads per KV head, <= 8), PAGE (multiple of 16),
// KV_FP8 (0, 1), AHEAD (0, 1: see overlap.py), WARPS, SUB (16-token subtiles a warp takes at a time), ALONE (tokens of a context that
// one block takes alone, however many splits there are).
// Cache: [2][pages][kv heads][PAGE][HEAD_DIM]. q and out: [sequences][kv heads * GROUP][HEAD_DIM] bf16, or out e4m3.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef long long i64;

#define BYTES (KV_FP8 ? 1 : 2)
#define ROW (HEAD_DIM * BYTES)                       // bytes of one token's key or value
#define KP (ROW / 64)                                // 16-byte pieces of a key row per lane
#define VB (ROW / 8 < 16 ? ROW / 8 : 16)             // bytes of a value row per lane and piece
#define VP (ROW / 8 / VB)
#define VW (VB / 4)
#define MT (HEAD_DIM / 16)
#define TILE (16 * SUB)
#define QW (HEAD_DIM / 8)
#define NEG (-1e30f)
#define APART(column) ((column) + (column) / 16 * 4) // lanes that store columns 16 apart use other banks then
#if ROTATES
#define NC ""                                        // the newest token is written in the same launch
#else
#define NC ".nc"
#endif

struct Words { u32 w[4]; };

__device__ __forceinline__ Words load16(const u8* p) {
    Words r;
    asm volatile("ld.global" NC ".L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r.w[0]), "=r"(r.w[1]), "=r"(r.w[2]), "=r"(r.w[3]) : "l"(p));
    return r;
}
__device__ __forceinline__ Words load_value(const u8* p) {
    if (VB == 16) return load16(p);
    Words r;
    asm volatile("ld.global" NC ".L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(r.w[0]), "=r"(r.w[1]) : "l"(p));
    r.w[2] = r.w[3] = 0;
    return r;
}
__device__ __forceinline__ float exp2_(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ float bf16_to_float(u32 x) { return __uint_as_float(x << 16); }
__device__ __forceinline__ u32 pack_f16(float lo, float hi) { u32 d; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo)); return d; }
__device__ __forceinline__ u32 pack_bf16(float lo, float hi) { u32 d; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo)); return d; }
// Elements of the output from `at` on, a multiple of eight, times `factor`. ROUNDS: `inverse` is 1 / scale.
__device__ __forceinline__ void store_eight(void* out, i64 at, const float (&values)[8], float factor, float inverse) {
#if ROUNDS
    u32 words[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        u16 low, high;
        const float* v = values + 4 * i;
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(v[1] * factor * inverse), "f"(v[0] * factor * inverse));
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(v[3] * factor * inverse), "f"(v[2] * factor * inverse));
        words[i] = (u32)high << 16 | low;
    }
    *reinterpret_cast<uint2*>((u8*)out + at) = make_uint2(words[0], words[1]);
#else
    u32 words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = pack_bf16(values[2 * i] * factor, values[2 * i + 1] * factor);
    *reinterpret_cast<uint4*>((u16*)out + at) = make_uint4(words[0], words[1], words[2], words[3]);
#endif
}
// Element `at` alone.
__device__ __forceinline__ void store_out(void* out, i64 at, float value, float inverse) {
#if ROUNDS
    u16 d;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(d) : "f"(0.f), "f"(value * inverse));
    ((u8*)out)[at] = (u8)d;
#else
    ((u16*)out)[at] = (u16)(pack_bf16(value, 0.f) & 0xffff);
#endif
}
__device__ __forceinline__ u32 pack(float lo, float hi) { return KV_FP8 ? pack_f16(lo, hi) : pack_bf16(lo, hi); }
__device__ __forceinline__ u32 transpose8x8(u32 x) { u32 d; asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(x)); return d; }
#if KV_FP8
__device__ __forceinline__ u32 low_pair(u32 x) { u32 d; asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(d) : "h"((u16)(x & 0xffff))); return d; }
__device__ __forceinline__ u32 high_pair(u32 x) { u32 d; asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(d) : "h"((u16)(x >> 16))); return d; }
#endif

__device__ __forceinline__ void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#if KV_FP8
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// See overlap.py.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Queries of one KV group: lane (head g, quarter c) holds the same pieces of its row as of a key's.
__device__ __forceinline__ void load_query(u32 (&qf)[QW], const u16* q, int c, bool real) {
    const int piece = 16 / BYTES;                    // elements
#pragma unroll
    for (int i = 0; i < QW; i += 4) {
        const int at = (2 * i / piece) * 4 * piece + c * piece + 2 * i % piece;
        const uint4 four = real ? *reinterpret_cast<const uint4*>(q + at) : make_uint4(0u, 0u, 0u, 0u);
        qf[i] = four.x, qf[i + 1] = four.y, qf[i + 2] = four.z, qf[i + 3] = four.w;
    }
}
// As B fragments.
__device__ __forceinline__ void to_operands(u32 (&qf)[QW]) {
#pragma unroll
    for (int i = 0; i < QW; ++i)
        if (KV_FP8) qf[i] = pack_f16(bf16_to_float(qf[i] & 0xffff), __uint_as_float(qf[i] & 0xffff0000u));
}

#if ROTATES
// RMS norm and rotation of a head's row, of which a lane holds columns `column(i)` + 0, 1 and, QW / 2 pairs on, 64 more: raw in and
// out, bf16. `angles`: 64 cosines, then 64 sines. `lanes` of the warp hold a row together.
template <int PAIRS, int LANES, typename Column>
__device__ __forceinline__ void rotate(u32 (&pairs)[PAIRS], const float* angles, const u16* norm, float eps, Column column) {
    float inverse = 1.f;
    if (norm) {
        float sum = 0.f;
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            const float lo = bf16_to_float(pairs[i] & 0xffff), hi = __uint_as_float(pairs[i] & 0xffff0000u);
            sum += lo * lo + hi * hi;
        }
#pragma unroll
        for (int d = 1; d < LANES; d <<= 1) sum += __shfl_xor_sync(~0u, sum, d);
        inverse = rsqrtf(sum / HEAD_DIM + eps);
    }
#pragma unroll
    for (int i = 0; i < PAIRS / 2; ++i) {
        const int at = column(i);
        float first[2], second[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const u32 a = pairs[i], b = pairs[i + PAIRS / 2];
            float lo = e ? __uint_as_float(a & 0xffff0000u) : bf16_to_float(a & 0xffff);
            float hi = e ? __uint_as_float(b & 0xffff0000u) : bf16_to_float(b & 0xffff);
            if (norm) lo *= inverse * bf16_to_float(norm[at + e]), hi *= inverse * bf16_to_float(norm[at + e + 64]);
            const float cosine = angles[at + e], sine = angles[at + e + 64];
            first[e] = lo * cosine - hi * sine, second[e] = hi * cosine + lo * sine;
        }
        pairs[i] = pack_bf16(first[0], first[1]), pairs[i + PAIRS / 2] = pack_bf16(second[0], second[1]);
    }
}
__device__ __forceinline__ void store_pair(u8* row, int column, u32 pair, float inverse_scale) {
#if KV_FP8
    u16 d;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(d)
        : "f"(__uint_as_float(pair & 0xffff0000u) * inverse_scale), "f"(bf16_to_float(pair & 0xffff) * inverse_scale));
    *(u16*)(row + column) = d;
#else
    *(u32*)(row + 2 * column) = pair;
#endif
}
#endif

__device__ __forceinline__ void scores(float (&s)[4], const Words (&k0)[KP], const Words (&k1)[KP], const u32 (&qf)[QW]) {
    s[0] = s[1] = s[2] = s[3] = 0.f;
#pragma unroll
    for (int i = 0; i < KP; ++i) {
#if KV_FP8
#pragma unroll
        for (int w = 0; w < 4; ++w)
            mma(s, low_pair(k0[i].w[w]), low_pair(k1[i].w[w]), high_pair(k0[i].w[w]), high_pair(k1[i].w[w]),
                qf[(i * 4 + w) * 2], qf[(i * 4 + w) * 2 + 1]);
#else
#pragma unroll
        for (int j = 0; j < 2; ++j)
            mma(s, k0[i].w[2 * j], k1[i].w[2 * j], k0[i].w[2 * j + 1], k1[i].w[2 * j + 1], qf[(i * 2 + j) * 2], qf[(i * 2 + j) * 2 + 1]);
#endif
    }
}

__device__ __forceinline__ void add_values(float (&acc)[MT][4], const Words (&v)[4][VP], u32 p0, u32 p1) {
#pragma unroll
    for (int i = 0; i < VP; ++i) {
#pragma unroll
        for (int w = 0; w < VW; ++w) {
            const u32 t0 = v[0][i].w[w], t1 = v[1][i].w[w], t2 = v[2][i].w[w], t3 = v[3][i].w[w];
#if KV_FP8
            const u32 lo01 = __byte_perm(t0, t1, 0x5140), hi01 = __byte_perm(t0, t1, 0x7362);
            const u32 lo23 = __byte_perm(t2, t3, 0x5140), hi23 = __byte_perm(t2, t3, 0x7362);
            mma(acc[(i * VW + w) * 2], low_pair(lo01), high_pair(lo01), low_pair(lo23), high_pair(lo23), p0, p1);
            mma(acc[(i * VW + w) * 2 + 1], low_pair(hi01), high_pair(hi01), low_pair(hi23), high_pair(hi23), p0, p1);
#else
            mma(acc[i * VW + w], __byte_perm(t0, t1, 0x5410), __byte_perm(t0, t1, 0x7632), __byte_perm(t2, t3, 0x5410), __byte_perm(t2, t3, 0x7632), p0, p1);
#endif
        }
    }
}

// The element of HEAD_DIM that accumulator `tile`, register pair `r` (0: rows 0-7, 1: rows 8-15) of lane group g stands for.
__device__ __forceinline__ int element(int tile, int r, int g) {
#if KV_FP8
    const int i = tile / (2 * VW), e = tile % (2 * VW);
    return i * 8 * VB + g * VB + 2 * e + r;
#else
    const int i = tile / VW, w = tile % VW;
    return (i * 8 * VB + g * VB) / 2 + 2 * w + r;
#endif
}

extern "C" __global__ void __launch_bounds__(WARPS * 32)
paged_decode(void* __restrict__ out, const u16* __restrict__ q, const u8* __restrict__ kv, const int* __restrict__ page_table,
             const int* __restrict__ rows, const int* __restrict__ lengths, float* __restrict__ partial, int* __restrict__ counters,
             i64 value_offset, int max_pages, int window, float score_scale, float value_scale
#if ROUNDS
             , const float* __restrict__ rounding_scale, float* __restrict__ out_scales
#endif
#if ROTATES
             , const float* __restrict__ table, const u16* __restrict__ q_norm, const u16* __restrict__ k_norm, float eps, float key_scale
#endif
             ) {
    __shared__ __align__(16) float part_out[WARPS][GROUP][APART(HEAD_DIM)];
    __shared__ float part_max[WARPS][8], part_sum[WARPS][8];
    __shared__ int is_last;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, c = lane & 3;
    const int split = blockIdx.x, head = blockIdx.y, seq = blockIdx.z, kv_heads = gridDim.y;
    if (AHEAD) let_next_start();
    // Lengths, pages and all tokens but the newest were there before the kernel that this one waits for had begun.
    const int length = lengths[seq];
    const int* pages = page_table + (i64)(rows ? rows[seq] : seq) * max_pages;
    const int first = window > 0 && length > window ? length - window : 0;
    const int tile_lo = first / TILE, tile_hi = (length + TILE - 1) / TILE;
    // Splits of a short context, or of less than two tiles a warp, cost more to combine than they save; blocks left without work go.
    const int tiles = tile_hi - tile_lo, most = tiles * TILE <= ALONE ? 1 : (tiles + 2 * WARPS - 1) / (2 * WARPS);
    const int splits = min((int)gridDim.x, most);
    if (length <= 0 || split >= splits) {
        wait_for_previous();                         // or the next kernel's wait would not be one for the previous too
        return;
    }
    const int per = (tile_hi - tile_lo + splits - 1) / splits;
    const int begin = tile_lo + split * per, end = min(begin + per, tile_hi);

    const i64 page_bytes = (i64)kv_heads * PAGE * ROW;
    const u8* key_base = kv + (i64)head * PAGE * ROW;
    float acc[MT][4];
#pragma unroll
    for (int j = 0; j < MT; ++j) acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0.f;
    float m0 = NEG, m1 = NEG, l0 = 0.f, l1 = 0.f;
    Words k0[SUB][KP], k1[SUB][KP], v[SUB][4][VP];
    i64 at[SUB], next[SUB];                          // byte offset of each subtile's first token in the cache

    auto locate = [&](i64 (&where)[SUB], int tile) {
#pragma unroll
        for (int u = 0; u < SUB; ++u) {
            const int token = min(tile * TILE + u * 16, length - 1) & ~15;
            where[u] = (i64)pages[token / PAGE] * page_bytes + (token % PAGE) * ROW;
        }
    };
    auto load_keys = [&](const i64 (&where)[SUB]) {
#pragma unroll
        for (int u = 0; u < SUB; ++u)
#pragma unroll
            for (int i = 0; i < KP; ++i) {
                const u8* p = key_base + where[u] + i * 64 + c * 16;
                k0[u][i] = load16(p + g * ROW);
                k1[u][i] = load16(p + (g + 8) * ROW);
            }
    };
    auto load_values = [&](const i64 (&where)[SUB]) {
#pragma unroll
        for (int u = 0; u < SUB; ++u)
#pragma unroll
            for (int i = 0; i < VP; ++i) {
                const u8* p = key_base + value_offset + where[u] + i * 8 * VB + g * VB + 2 * c * ROW;
                v[u][0][i] = load_value(p);
                v[u][1][i] = load_value(p + ROW);
                v[u][2][i] = load_value(p + 8 * ROW);
                v[u][3][i] = load_value(p + 9 * ROW);
            }
    };

    int tile = begin + warp;
    const bool old = (tile + 1) * TILE < length;     // the newest token is not among the first tile's
    if (tile < end) {
        locate(at, tile);
        if (old) load_keys(at), load_values(at);
        locate(next, min(tile + WARPS, end - 1));
    }
    wait_for_previous();
    u32 qf[QW];
#if ROTATES
    const u16* qkv = q + (i64)seq * kv_heads * (GROUP + 2) * HEAD_DIM;
    const float* angles = table + (i64)(length - 1) * HEAD_DIM;
    {
        const int piece = 16 / BYTES;
        auto column = [&](int i) { return (2 * i / piece) * 4 * piece + c * piece + 2 * i % piece; };
        load_query(qf, qkv + (head * GROUP + (g < GROUP ? g : 0)) * HEAD_DIM, c, g < GROUP);
        rotate<QW, 4>(qf, angles, q_norm, eps, column);
    }
    if (begin < tile_hi && tile_hi == end && (tile_hi - 1 - begin) % WARPS == warp) {
        const int token = length - 1, at = 2 * lane;
        const i64 place = (i64)pages[token / PAGE] * page_bytes + (token % PAGE) * ROW;
        const u16 *key = qkv + (kv_heads * GROUP + head) * HEAD_DIM, *value = key + kv_heads * HEAD_DIM;
        u32 k[2] = {*(const u32*)(key + at), *(const u32*)(key + at + 64)};
        rotate<2, 32>(k, angles, k_norm, eps, [&](int) { return at; });
        u8* to = const_cast<u8*>(key_base) + place;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            store_pair(to, at + 64 * i, k[i], 1.f / key_scale);
            store_pair(to + value_offset, at + 64 * i, *(const u32*)(value + at + 64 * i), 1.f / value_scale);
        }
        __threadfence_block();
        __syncwarp();
    }
#else
    load_query(qf, q + ((i64)seq * kv_heads * GROUP + head * GROUP + (g < GROUP ? g : 0)) * HEAD_DIM, c, g < GROUP);
#endif
    to_operands(qf);
    if (tile < end && !old) load_keys(at), load_values(at);
    for (; tile < end; tile += WARPS) {
        float s[SUB][4];
#pragma unroll
        for (int u = 0; u < SUB; ++u) scores(s[u], k0[u], k1[u], qf);
        const bool more = tile + WARPS < end;
        if (more) {
#pragma unroll
            for (int u = 0; u < SUB; ++u) at[u] = next[u];
            load_keys(at);
            locate(next, min(tile + 2 * WARPS, end - 1));
        }
        const int token = tile * TILE + g;
        const bool ragged = tile * TILE + TILE > length || tile * TILE < first;
        float top0 = NEG, top1 = NEG;
#pragma unroll
        for (int u = 0; u < SUB; ++u) {
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                s[u][r] *= score_scale;
                const int t = token + u * 16 + (r >> 1) * 8;
                if (ragged && (t >= length || t < first)) s[u][r] = 2.f * NEG;
            }
            top0 = fmaxf(top0, fmaxf(s[u][0], s[u][2]));
            top1 = fmaxf(top1, fmaxf(s[u][1], s[u][3]));
        }
        // Lanes compare the scores of their own tokens: only where one tops its head's maximum do they need each other's.
        if (__any_sync(~0u, top0 > m0 || top1 > m1)) {
#pragma unroll
            for (int d = 4; d < 32; d <<= 1) {
                top0 = fmaxf(top0, __shfl_xor_sync(~0u, top0, d));
                top1 = fmaxf(top1, __shfl_xor_sync(~0u, top1, d));
            }
            const float n0 = fmaxf(m0, top0), n1 = fmaxf(m1, top1), a0 = exp2_(m0 - n0), a1 = exp2_(m1 - n1);
            m0 = n0, m1 = n1, l0 *= a0, l1 *= a1;
#pragma unroll
            for (int j = 0; j < MT; ++j) acc[j][0] *= a0, acc[j][1] *= a1, acc[j][2] *= a0, acc[j][3] *= a1;
        }
        if (ragged) {                                // stale slots may hold NaN, and 0 * NaN is not 0
#pragma unroll
            for (int u = 0; u < SUB; ++u)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const int t = tile * TILE + u * 16 + 2 * c + (j & 1) + (j >> 1) * 8;
                    if (t >= length || t < first)
#pragma unroll
                        for (int i = 0; i < VP; ++i) v[u][j][i].w[0] = v[u][j][i].w[1] = v[u][j][i].w[2] = v[u][j][i].w[3] = 0;
                }
        }
#pragma unroll
        for (int u = 0; u < SUB; ++u) {
            const float p0 = exp2_(s[u][0] - m0), p1 = exp2_(s[u][1] - m1), p2 = exp2_(s[u][2] - m0), p3 = exp2_(s[u][3] - m1);
            l0 += p0 + p2, l1 += p1 + p3;
            add_values(acc, v[u], transpose8x8(pack(p0, p1)), transpose8x8(pack(p2, p3)));
        }
        if (more) load_values(at);
    }

    if (!AHEAD) let_next_start();
    // Warps, then splits, are combined by their maxima and sums.
#pragma unroll
    for (int d = 4; d < 32; d <<= 1) l0 += __shfl_xor_sync(~0u, l0, d), l1 += __shfl_xor_sync(~0u, l1, d);
    if (g == 0) part_max[warp][2 * c] = m0, part_max[warp][2 * c + 1] = m1, part_sum[warp][2 * c] = l0, part_sum[warp][2 * c + 1] = l1;
#pragma unroll
    for (int j = 0; j < MT; ++j)
#pragma unroll
        for (int r = 0; r < 4; ++r)
            if (2 * c + (r & 1) < GROUP) part_out[warp][2 * c + (r & 1)][APART(element(j, r >> 1, g))] = acc[j][r];
    __syncthreads();

    const i64 first_out = ((i64)seq * kv_heads + head) * GROUP * HEAD_DIM;
    float inverse = 1.f;
#if ROUNDS
    inverse = 1.f / *rounding_scale;
    if (head == 0 && split == 0 && threadIdx.x == 0) out_scales[seq] = *rounding_scale;
#endif
    float* mine = partial + (((i64)seq * kv_heads + head) * gridDim.x + split) * GROUP * (HEAD_DIM + 2);
    for (int i = 8 * threadIdx.x; i < GROUP * HEAD_DIM; i += WARPS * 32 * 8) {
        const int h = i / HEAD_DIM, d = i % HEAD_DIM;
        float top = part_max[0][h], sum = 0.f, o[8] = {};
#pragma unroll
        for (int w = 1; w < WARPS; ++w) top = fmaxf(top, part_max[w][h]);
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            const float a = exp2_(part_max[w][h] - top);
            const float4* part = reinterpret_cast<const float4*>(&part_out[w][h][APART(d)]);
            sum += part_sum[w][h] * a;
#pragma unroll
            for (int j = 0; j < 2; ++j)
                o[4 * j] += part[j].x * a, o[4 * j + 1] += part[j].y * a, o[4 * j + 2] += part[j].z * a, o[4 * j + 3] += part[j].w * a;
        }
        if (splits == 1) {
            store_eight(out, first_out + i, o, value_scale / sum, inverse);
        } else {
#pragma unroll
            for (int j = 0; j < 8; ++j) mine[i + j] = o[j];
            if (d == 0) mine[GROUP * HEAD_DIM + 2 * h] = top, mine[GROUP * HEAD_DIM + 2 * h + 1] = sum;
        }
    }
    if (splits == 1) return;

    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) is_last = atomicAdd(counters + seq * kv_heads + head, 1) == splits - 1;
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    const float* all = partial + ((i64)seq * kv_heads + head) * gridDim.x * GROUP * (HEAD_DIM + 2);
    for (int i = threadIdx.x; i < GROUP * HEAD_DIM; i += WARPS * 32) {
        const int h = i / HEAD_DIM;
        const int stride = GROUP * (HEAD_DIM + 2), at = GROUP * HEAD_DIM + 2 * h;
        float top = 2.f * NEG, sum = 0.f, o = 0.f;
#pragma unroll 8
        for (int w = 0; w < splits; ++w) top = fmaxf(top, __ldcg(all + w * stride + at));
#pragma unroll 8
        for (int w = 0; w < splits; ++w) {
            const float a = exp2_(__ldcg(all + w * stride + at) - top);
            sum += __ldcg(all + w * stride + at + 1) * a;
            o += __ldcg(all + w * stride + i) * a;
        }
        store_out(out, first_out + i, o / sum * value_scale, inverse);
    }
    if (threadIdx.x == 0) counters[seq * kv_heads + head] = 0;
}
