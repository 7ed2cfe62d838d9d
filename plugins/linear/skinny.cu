// out (M, N) = x (M, K) . w (N, K)^T for few rows M: the weights stream from memory once, straight into tensor-core registers.
//
// The contraction index of an mma may be permuted freely, so each lane loads 16 contiguous bytes of a weight row and of
// an x row and calls them whatever fragment they fill: no shared memory until the warps of a block, which share out K,
// add up. Weight rows are the mma's M side, x rows its N side of 8. Warps of a block that take the same slice of K for other
// weight rows (TILES) find x in the L1: beyond 8 rows, x from the L2 would cost as much as the weights from memory.
//
// Defined at compile time: KIND (0 bf16, 1 e4m3, 2 int8), ROWS (16-row tiles a warp takes), COLS (8-column tiles: 8 * COLS >= M),
// WARPS (of them TILES side by side, WARPS / TILES sharing K), OUT_F32, X_AHEAD (1: x is fetched a line ahead like the weights, 0: when used, for fewer registers). K * element size must be a multiple of 128 bytes.
// GATED: w (2N, K) holds gate's rows, then up's, and out (M, N) = silu(x . gate^T) * (x . up^T), without bias. Eight rows of gate and the
// eight of up that belong to them make a 16-row tile, so that a block has both factors of its columns.
// ROUNDS, with GATED: out is e4m3 by the scale input_scale[0], which goes to out_scale for every row.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef long long i64;

#if KIND == 2
typedef int acc_t;
#else
typedef float acc_t;
#endif

struct Words { u32 w[4]; };

__device__ __forceinline__ Words load_weight(const u8* p) {
    Words r;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r.w[0]), "=r"(r.w[1]), "=r"(r.w[2]), "=r"(r.w[3]) : "l"(p));
    return r;
}
__device__ __forceinline__ Words load_input(const u8* p) {
    Words r;
    asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r.w[0]), "=r"(r.w[1]), "=r"(r.w[2]), "=r"(r.w[3]) : "l"(p));
    return r;
}
__device__ __forceinline__ void mma(acc_t (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#if KIND == 0
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#elif KIND == 1
    asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#endif
}
__device__ __forceinline__ u16 to_bf16(float x) { u16 d; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(d) : "f"(x)); return d; }
__device__ __forceinline__ u8 to_e4m3(float x) { u16 d; asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(d) : "f"(0.f), "f"(x)); return (u8)d; }
__device__ __forceinline__ float silu(float x) {
    float e, r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(x * -1.4426950408889634f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(1.f + e));
    return x * r;
}

// One 128-byte line of each of the warp's weight rows and of the x rows, as two 64-byte pieces.
struct Line { Words w[2][ROWS][2], x[2][COLS]; };

extern "C" __global__ void __launch_bounds__(WARPS * 32)
skinny(void* __restrict__ out, const u8* __restrict__ x, const u8* __restrict__ w, const float* __restrict__ x_scale,
       const float* __restrict__ w_scale, const u16* __restrict__ bias, int m_rows, int n_rows, int k_bytes, float* __restrict__ out_scale,
       const float* __restrict__ input_scale) {
    __shared__ acc_t total[WARPS][ROWS * 16][COLS * 8 + 1];
    const int SPLITS = WARPS / TILES, WIDTH = ROWS * (GATED ? 8 : 16);  // columns of the output that a tile yields
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, c = lane & 3;
    const int tile = warp % TILES, slice = warp / TILES;
    const int n0 = (blockIdx.x * TILES + tile) * WIDTH;
    const u8* wp[ROWS][2];
    const u8* xp[COLS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = GATED ? min(n0 + r * 8 + g, n_rows - 1) + half * n_rows : min(n0 + r * 16 + half * 8 + g, n_rows - 1);
            wp[r][half] = w + (i64)row * k_bytes + c * 16;
        }
#pragma unroll
    for (int t = 0; t < COLS; ++t) xp[t] = x + (i64)min(t * 8 + g, m_rows - 1) * k_bytes + c * 16;

    acc_t acc[ROWS][COLS][4];
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int t = 0; t < COLS; ++t) acc[r][t][0] = acc[r][t][1] = acc[r][t][2] = acc[r][t][3] = 0;

    auto load_w = [&](Line& line, int at) {
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int r = 0; r < ROWS; ++r)
                line.w[h][r][0] = load_weight(wp[r][0] + at + h * 64), line.w[h][r][1] = load_weight(wp[r][1] + at + h * 64);
    };
    auto load_x = [&](Line& line, int at) {
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int t = 0; t < COLS; ++t)
                line.x[h][t] = load_input(xp[t] + at + h * 64);
    };
    auto multiply = [&](const Line& line) {
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int j = 0; j < 2; ++j)
#pragma unroll
                for (int t = 0; t < COLS; ++t)
#pragma unroll
                    for (int r = 0; r < ROWS; ++r)
                        mma(acc[r][t], line.w[h][r][0].w[2 * j], line.w[h][r][1].w[2 * j], line.w[h][r][0].w[2 * j + 1],
                            line.w[h][r][1].w[2 * j + 1], line.x[h][t].w[2 * j], line.x[h][t].w[2 * j + 1]);
    };

    const int step = SPLITS * 128;
    Line a, b;
    int at = slice * 128;
    if (at < k_bytes) load_w(a, at);
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");  // x is the previous kernel's; the weights above are not
#endif
    if (X_AHEAD && at < k_bytes) load_x(a, at);
    while (at < k_bytes) {
        const int ahead = at + step;
        if (ahead < k_bytes) load_w(b, ahead);
        if (X_AHEAD && ahead < k_bytes) load_x(b, ahead);
        if (!X_AHEAD) load_x(a, at);
        multiply(a);
        if (ahead >= k_bytes) break;
        at = ahead + step;
        if (at < k_bytes) load_w(a, at);
        if (X_AHEAD && at < k_bytes) load_x(a, at);
        if (!X_AHEAD) load_x(b, ahead);
        multiply(b);
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
    auto sum_of = [&](int tile, int row, int m) {        // over the slices of K
        acc_t sum = 0;
#pragma unroll
        for (int v = 0; v < SPLITS; ++v) sum += total[v * TILES + tile][row][m];
        return (float)sum;
    };
    for (int i = threadIdx.x; i < TILES * WIDTH * COLS * 8; i += WARPS * 32) {
        const int at = i % (TILES * WIDTH), m = i / (TILES * WIDTH), from = at / WIDTH, row = at % WIDTH;
        const int n = blockIdx.x * TILES * WIDTH + at;
        if (m >= m_rows || n >= n_rows) continue;
#if GATED
        float gate = sum_of(from, row / 8 * 16 + row % 8, m), up = sum_of(from, row / 8 * 16 + 8 + row % 8, m);
        if (KIND != 0) gate *= x_scale[m] * w_scale[n], up *= x_scale[m] * w_scale[n_rows + n];
        const float value = silu(gate) * up;
#else
        float value = sum_of(from, row, m);
        if (KIND != 0) value *= x_scale[m] * w_scale[n];
        if (bias) value += __uint_as_float((u32)bias[n] << 16);
#endif
#if ROUNDS
        ((u8*)out)[(i64)m * n_rows + n] = to_e4m3(value * (1.f / input_scale[0]));
#elif OUT_F32
        ((float*)out)[(i64)m * n_rows + n] = value;
#else
        ((u16*)out)[(i64)m * n_rows + n] = to_bf16(value);
#endif
    }
#if ROUNDS
    if (blockIdx.x == 0)
        for (int m = threadIdx.x; m < m_rows; m += WARPS * 32) out_scale[m] = input_scale[0];
#endif
}
