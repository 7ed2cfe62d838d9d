// out (M, N) = x (M, K) bf16 . w (N, K)^T for few rows M and int4 weights in groups of 128: see skinny.cu for the idea.
//
// A lane's 16 bytes of a weight row are 32 values of one group. Nibbles become bf16 in place: OR-ed into the mantissa of
// 128.0 a nibble n reads 128 + n, and subtracting is exact. Pairs come out as (k, k + 4), so x is permuted to match.
// Defined at compile time: ROWS (16-row tiles a warp takes), COLS (8-column tiles: 8 * COLS >= M), WARPS.
// w (N, K / 2): low nibble = even k, two's complement; w_scale (N, K / 128) float32; K a multiple of 128.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef long long i64;

struct Words { u32 w[4]; };

__device__ __forceinline__ Words load_weight(const u8* p) {
    Words r;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r.w[0]), "=r"(r.w[1]), "=r"(r.w[2]), "=r"(r.w[3]) : "l"(p));
    return r;
}
__device__ __forceinline__ Words load_input(const u16* p) {
    Words r;
    asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r.w[0]), "=r"(r.w[1]), "=r"(r.w[2]), "=r"(r.w[3]) : "l"(p));
    return r;
}
__device__ __forceinline__ void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// Nibbles `shift / 4` and `shift / 4 + 4` of eight biased ones, as a pair of bf16.
__device__ __forceinline__ u32 pair(u32 biased, int shift) {
    u32 d;
    asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(((biased >> shift) & 0x000f000fu) | 0x43004300u), "r"(0x43084308u));
    return d;
}
__device__ __forceinline__ u16 to_bf16(float x) { u16 d; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(d) : "f"(x)); return d; }

struct Piece { Words w[ROWS][2]; float scale[ROWS][2]; };

extern "C" __global__ void __launch_bounds__(WARPS * 32)
skinny_int4(u16* __restrict__ out, const u16* __restrict__ x, const u8* __restrict__ w, const float* __restrict__ w_scale,
            const u16* __restrict__ bias, int m_rows, int n_rows, int k) {
    __shared__ float total[WARPS][ROWS * 16][COLS * 8 + 1];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, c = lane & 3;
    const int n0 = blockIdx.x * ROWS * 16, groups = k / 128;
    const u8* wp[ROWS][2];
    const float* sp[ROWS][2];
    const u16* xp[COLS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const i64 row = min(n0 + r * 16 + half * 8 + g, n_rows - 1);
            wp[r][half] = w + row * (k / 2) + c * 16;
            sp[r][half] = w_scale + row * groups;
        }
#pragma unroll
    for (int t = 0; t < COLS; ++t) xp[t] = x + (i64)min(t * 8 + g, m_rows - 1) * k + c * 32;

    float acc[ROWS][COLS][4];
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int t = 0; t < COLS; ++t) acc[r][t][0] = acc[r][t][1] = acc[r][t][2] = acc[r][t][3] = 0.f;

    auto load = [&](Piece& piece, int group) {
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                piece.w[r][half] = load_weight(wp[r][half] + group * 64);
                piece.scale[r][half] = __ldg(sp[r][half] + group);
            }
    };
    auto multiply = [&](const Piece& piece, int group) {
        float part[ROWS][COLS][4];
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int t = 0; t < COLS; ++t) part[r][t][0] = part[r][t][1] = part[r][t][2] = part[r][t][3] = 0.f;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            u32 b[COLS][4];
#pragma unroll
            for (int t = 0; t < COLS; ++t) {
                const Words v = load_input(xp[t] + group * 128 + i * 8);
                b[t][0] = __byte_perm(v.w[0], v.w[2], 0x5410), b[t][1] = __byte_perm(v.w[0], v.w[2], 0x7632);
                b[t][2] = __byte_perm(v.w[1], v.w[3], 0x5410), b[t][3] = __byte_perm(v.w[1], v.w[3], 0x7632);
            }
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                const u32 lo = piece.w[r][0].w[i] ^ 0x88888888u, hi = piece.w[r][1].w[i] ^ 0x88888888u;
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    const u32 a0 = pair(lo, 8 * j), a1 = pair(hi, 8 * j), a2 = pair(lo, 8 * j + 4), a3 = pair(hi, 8 * j + 4);
#pragma unroll
                    for (int t = 0; t < COLS; ++t) mma(part[r][t], a0, a1, a2, a3, b[t][2 * j], b[t][2 * j + 1]);
                }
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int t = 0; t < COLS; ++t)
#pragma unroll
                for (int i = 0; i < 4; ++i) acc[r][t][i] += part[r][t][i] * piece.scale[r][i >> 1];
    };

    Piece a, b;
    int group = warp;
    if (group < groups) load(a, group);
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");  // x is the previous kernel's; the weights above are not
#endif
    while (group < groups) {
        const int ahead = group + WARPS;
        if (ahead < groups) load(b, ahead);
        multiply(a, group);
        if (ahead >= groups) break;
        group = ahead + WARPS;
        if (group < groups) load(a, group);
        multiply(b, ahead);
    }

#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");  // see overlap.py
#endif
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int t = 0; t < COLS; ++t)
#pragma unroll
            for (int i = 0; i < 4; ++i) total[warp][r * 16 + (i >> 1) * 8 + g][t * 8 + 2 * c + (i & 1)] = acc[r][t][i];
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * 16 * COLS * 8; i += WARPS * 32) {
        const int row = i % (ROWS * 16), m = i / (ROWS * 16), n = n0 + row;
        if (m >= m_rows || n >= n_rows) continue;
        float value = 0.f;
#pragma unroll
        for (int v = 0; v < WARPS; ++v) value += total[v][row][m];
        if (bias) value += __uint_as_float((u32)bias[n] << 16);
        out[(i64)m * n_rows + n] = to_bf16(value);
    }
}
