// out (M, N) = x (M, K) . w (N, K)^T for few rows M: the weights stream from memory once, straight into tensor-core registers.
//
// The contraction index of an mma may be permuted freely, so each lane loads 16 contiguous bytes of a weight row and of
// an x row and calls them whatever fragment they fill: no shared memory until the warps of a block, which share out K,
// add up. Weight rows are the mma's M side, x rows its N side of 8. Warps of a block that take the same slice of K for other
// weight rows (TILES) find x in the L1: beyond 8 rows, x from the L2 would cost as much as the weights from memory.
//
// PREPARES, for at most MX (1, 2 or 4) rows: x is what a residual add, an RMS norm or the rounding would have read. Each block does
// that for itself, into shared memory, while its first weights are on their way; block 0 stores the sum. VECS: 16-byte pieces of a
// row that a thread takes. Dynamic shared memory is then MX rows of K elements + 64 bytes; without PREPARES there is none.
//
// Defined at compile time: KIND (0 bf16, 1 e4m3, 2 int8), ROWS (16-row tiles a warp takes), COLS (8-column tiles: 8 * COLS >= M),
// WARPS (of them TILES side by side, WARPS / TILES sharing K), OUT_F32, LATE (see overlap.py), X_AHEAD (1: x is fetched a line ahead like the weights, 0: when used, for fewer registers). K * element size must be a multiple of 128 bytes.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef long long i64;

#define BYTES (KIND == 0 ? 2 : 1)
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

#if PREPARES
#define THREADS (WARPS * 32)
#define LARGEST 448.f

__device__ __forceinline__ u32 pack_bf16(float lo, float hi) { u32 d; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo)); return d; }
__device__ __forceinline__ u32 pack_e4m3(float a, float b, float c, float d) {
    u16 lo, hi;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(lo) : "f"(b), "f"(a));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(hi) : "f"(d), "f"(c));
    return (u32)lo | (u32)hi << 16;
}
__device__ __forceinline__ float low(u32 x) { return __uint_as_float(x << 16); }
__device__ __forceinline__ float high(u32 x) { return __uint_as_float(x & 0xffff0000u); }

// Every thread gets the block's sum, or greatest, of each row.
template <bool GREATEST> __device__ __forceinline__ void reduce(float (&v)[MX], float (&part)[WARPS][MX]) {
#pragma unroll
    for (int m = 0; m < MX; ++m) {
#pragma unroll
        for (int d = 1; d < 32; d <<= 1) {
            const float other = __shfl_xor_sync(~0u, v[m], d);
            v[m] = GREATEST ? fmaxf(v[m], other) : v[m] + other;
        }
        if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5][m] = v[m];
    }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < MX; ++m) {
        v[m] = part[0][m];
#pragma unroll
        for (int w = 1; w < WARPS; ++w) v[m] = GREATEST ? fmaxf(v[m], part[w][m]) : v[m] + part[w][m];
    }
}

// x (+ residual) -> normed by `norm` where there is one -> ready rows in shared memory, `stride` bytes apart, and their scales.
__device__ __forceinline__ void prepare(u8* ready, int stride, float (&scale)[MX], const u16* x, const u16* residual, u16* sum,
                                        const u16* norm, float eps, int m_rows, int k) {
    __shared__ float squares[WARPS][MX];
#if KIND == 1
    __shared__ float greatest[WARPS][MX];
#endif
    float v[MX][VECS][8];
#pragma unroll
    for (int m = 0; m < MX; ++m)
#pragma unroll
        for (int i = 0; i < VECS; ++i) {
            const int at = (i * THREADS + threadIdx.x) * 8;
            Words a = {{0, 0, 0, 0}};
            if (m < m_rows && at < k) {
                a = load_input((const u8*)(x + (i64)m * k + at));
                if (residual) {
                    const Words b = load_input((const u8*)(residual + (i64)m * k + at));
#pragma unroll
                    for (int j = 0; j < 4; ++j) a.w[j] = pack_bf16(low(a.w[j]) + low(b.w[j]), high(a.w[j]) + high(b.w[j]));
                    if (blockIdx.x == 0) *(uint4*)(sum + (i64)m * k + at) = make_uint4(a.w[0], a.w[1], a.w[2], a.w[3]);
                }
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) v[m][i][2 * j] = low(a.w[j]), v[m][i][2 * j + 1] = high(a.w[j]);
        }
    if (norm) {
        float total[MX];
#pragma unroll
        for (int m = 0; m < MX; ++m) {
            total[m] = 0.f;
#pragma unroll
            for (int i = 0; i < VECS * 8; ++i) total[m] += v[m][i / 8][i % 8] * v[m][i / 8][i % 8];
        }
        reduce<false>(total, squares);
#pragma unroll
        for (int i = 0; i < VECS; ++i) {
            const int at = (i * THREADS + threadIdx.x) * 8;
            Words w = {{0, 0, 0, 0}};
            if (at < k) w = load_input((const u8*)(norm + at));
#pragma unroll
            for (int m = 0; m < MX; ++m) {
                const float inverse = rsqrtf(total[m] / k + eps);
#pragma unroll
                for (int j = 0; j < 8; ++j) v[m][i][j] *= inverse * (j & 1 ? high(w.w[j / 2]) : low(w.w[j / 2]));
            }
        }
    }
#if KIND == 1
#pragma unroll
    for (int m = 0; m < MX; ++m) {
        scale[m] = 0.f;
#pragma unroll
        for (int i = 0; i < VECS * 8; ++i) scale[m] = fmaxf(scale[m], fabsf(v[m][i / 8][i % 8]));
    }
    reduce<true>(scale, greatest);
#endif
#pragma unroll
    for (int m = 0; m < MX; ++m) {
        scale[m] = KIND == 1 && scale[m] > 0.f ? fmaxf(__fdiv_rn(scale[m], LARGEST), 1.1754944e-38f) : 1.f;
        [[maybe_unused]] const float inverse = 1.f / scale[m];
#pragma unroll
        for (int i = 0; i < VECS; ++i) {
            const int at = (i * THREADS + threadIdx.x) * 8;
            if (at >= k) continue;
            const float* f = v[m][i];
#if KIND == 1
            *(uint2*)(ready + m * stride + at) = make_uint2(pack_e4m3(f[0] * inverse, f[1] * inverse, f[2] * inverse, f[3] * inverse),
                                                            pack_e4m3(f[4] * inverse, f[5] * inverse, f[6] * inverse, f[7] * inverse));
#else
            *(uint4*)(ready + m * stride + 2 * at) = make_uint4(pack_bf16(f[0], f[1]), pack_bf16(f[2], f[3]), pack_bf16(f[4], f[5]), pack_bf16(f[6], f[7]));
#endif
        }
    }
    __syncthreads();
}
#endif

// One 128-byte line of each of the warp's weight rows and of the x rows, as two 64-byte pieces.
struct Line { Words w[2][ROWS][2], x[2][COLS]; };

extern "C" __global__ void __launch_bounds__(WARPS * 32)
skinny(void* __restrict__ out, const u8* __restrict__ x, const u8* __restrict__ w, const float* __restrict__ x_scale,
       const float* __restrict__ w_scale, const u16* __restrict__ bias, int m_rows, int n_rows, int k_bytes
#if PREPARES
       , const u16* __restrict__ residual, u16* __restrict__ sum, const u16* __restrict__ norm, float eps
#endif
       ) {
    __shared__ acc_t total[WARPS][ROWS * 16][COLS * 8 + 1];
    const int SPLITS = WARPS / TILES;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, c = lane & 3;
    const int tile = warp % TILES, slice = warp / TILES;
    const int n0 = (blockIdx.x * TILES + tile) * ROWS * 16;
    const u8* wp[ROWS][2];
#if !PREPARES
    const u8* xp[COLS];
#endif
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half)
            wp[r][half] = w + (i64)min(n0 + r * 16 + half * 8 + g, n_rows - 1) * k_bytes + c * 16;
#if !PREPARES
#pragma unroll
    for (int t = 0; t < COLS; ++t) xp[t] = x + (i64)min(t * 8 + g, m_rows - 1) * k_bytes + c * 16;
#else
    extern __shared__ __align__(16) u8 ready[];
    const int stride = k_bytes + 64;                 // rows of x start in different banks
    const u32 mine = (u32)__cvta_generic_to_shared(ready) + min(g, m_rows - 1) * stride + c * 16;
    float scale[MX];
#endif

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
#if PREPARES
                asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(line.x[h][t].w[0]), "=r"(line.x[h][t].w[1]),
                             "=r"(line.x[h][t].w[2]), "=r"(line.x[h][t].w[3]) : "r"(mine + at + h * 64));
#else
                line.x[h][t] = load_input(xp[t] + at + h * 64);
#endif
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
    if (!LATE) asm volatile("griddepcontrol.launch_dependents;");
#endif
#if PREPARES
    prepare(ready, stride, scale, (const u16*)x, residual, sum, norm, eps, m_rows, k_bytes / BYTES);
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
    if (LATE) asm volatile("griddepcontrol.launch_dependents;");
#endif
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int t = 0; t < COLS; ++t)
#pragma unroll
            for (int i = 0; i < 4; ++i) total[warp][r * 16 + (i >> 1) * 8 + g][t * 8 + 2 * c + (i & 1)] = acc[r][t][i];
    __syncthreads();
    for (int i = threadIdx.x; i < TILES * ROWS * 16 * COLS * 8; i += WARPS * 32) {
        const int at_row = i % (TILES * ROWS * 16), m = i / (TILES * ROWS * 16);
        const int from = at_row / (ROWS * 16), row = at_row % (ROWS * 16), n = blockIdx.x * TILES * ROWS * 16 + at_row;
        if (m >= m_rows || n >= n_rows) continue;
        acc_t sum = 0;
#pragma unroll
        for (int v = 0; v < SPLITS; ++v) sum += total[v * TILES + from][row][m];
        float value = (float)sum;
#if PREPARES
        if (KIND != 0) {
            float own = scale[0];
#pragma unroll
            for (int r = 1; r < MX; ++r) own = m == r ? scale[r] : own;
            value *= own * w_scale[n];
        }
#else
        if (KIND != 0) value *= x_scale[m] * w_scale[n];
#endif
        if (bias) value += __uint_as_float((u32)bias[n] << 16);
#if OUT_F32
        ((float*)out)[(i64)m * n_rows + n] = value;
#else
        ((u16*)out)[(i64)m * n_rows + n] = to_bf16(value);
#endif
    }
}
