// out (M, N) = x (M, K) . w (N, K)^T for at most 32 rows M: one block a processor, whose copy engine streams weights into a deep
// ring of shared memory, from where the tensor cores read them (sm_90a).
//
// The blocks of a cluster share out K and take the same weight rows, 64 at a time; clusters share out N. A block so needs only its
// slice of x, which stays in shared memory, and what must be added up lies within the cluster: each block leaves its sums of a tile
// in its own shared memory, tells the others, and adds up its part of the rows from all of them, always in the same order.
//   one producer thread: 128-byte wide boxes, 128-byte swizzle, of 16 weight rows into the ring's next slot; weights do not depend
//     on the previous kernel, so the whole ring is on its way before the wait for it
//   GROUPS consumer warpgroups, in turns: sums (64 x 8 COLS) of one slot by wgmma, weights as its M side, added in float32: the
//     tensor cores' own sums of e4m3 keep 14 bits (DeepSeek-V3, arXiv:2412.19437, section 3.3.2)
//
// Defined at compile time: KIND (0 bf16, 1 e4m3), COLS (8 * COLS >= M; 1, 2, 4), CLUSTER (1, 2, 4, 8), GROUPS (1, 2),
// SLOTS (a multiple of GROUPS), UNITS (of 256 bytes of K that a block has at most), LATE (see overlap.py), OUT_F32. N and the rows
// of a cluster are multiples of 8 and of 16. Dynamic shared memory: SHARED bytes.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef unsigned long long u64;
typedef long long i64;

#define TILE 64                                      // weight rows
#define BOX 16                                       // of them brought at once
#define UNIT 256                                     // bytes of K: two boxes side by side
#define COLUMNS (8 * COLS)
#define SLOT_BYTES (TILE * UNIT)
#define X_BYTES (COLUMNS * UNIT)
#define PITCH (TILE + 4)                             // floats from one column of sums to the next: no bank conflict
#define SUM_BYTES (COLUMNS * PITCH * 4)
#define BARRIERS (2 * SLOTS + UNITS + 2)
#define SHARED (1024 + SLOTS * SLOT_BYTES + UNITS * X_BYTES + 2 * GROUPS * SUM_BYTES + BARRIERS * 8)
#define THREADS (GROUPS * 128 + 32)
#define PATIENCE (1 << 22)                           // polls of a barrier: a mistake must end in NaN, not in a hang

// A slot is always the same warpgroup's: one that ran ahead of the other could wait for a slot's phase after the next, which
// by its parity looks over.
static_assert(SLOTS % GROUPS == 0, "slots are dealt out to warpgroups in turn");

struct __align__(64) TensorMap { u64 opaque[16]; };

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ u16 to_bf16(float x) { u16 d; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(d) : "f"(x)); return d; }
__device__ __forceinline__ void initialize(u32 bar, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(bar), "r"(count) : "memory"); }
__device__ __forceinline__ void arrive(u32 bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(bar) : "memory"); }
__device__ __forceinline__ void expect(u32 bar, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ bool reached(u32 bar, u32 parity) {
    u32 done;
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done) : "r"(bar), "r"(parity) : "memory");
    return done;
}
struct Waiter {
    bool lost = false;
    __device__ __forceinline__ void operator()(u32 bar, u32 parity) {
        for (int i = 0; !lost && !reached(bar, parity); ++i) lost = i >= PATIENCE;
    }
};

// The same place in the shared memory of another block of the cluster.
__device__ __forceinline__ u32 place_in(u32 at, int rank) {
    u32 there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(rank));
    return there;
}
__device__ __forceinline__ void arrive_there(u32 bar) { asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" :: "r"(bar) : "memory"); }
__device__ __forceinline__ float4 load_there(u32 at) {
    float4 v;
    asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(at) : "memory");
    return v;
}
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// The box at byte `k` of row `row` of a matrix; what lies outside comes as zeros.
__device__ __forceinline__ void copy_box(u32 to, const TensorMap* map, int k, int row, u32 bar, u64 policy) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;"
                 :: "r"(to), "l"(map), "r"(k), "r"(row), "r"(bar), "l"(policy) : "memory");
}

// A matrix descriptor of rows of 128 bytes along the contraction, 128-byte swizzle, groups of 8 rows 1024 bytes apart.
__device__ __forceinline__ u64 descriptor(u32 at) { return (u64)((at >> 4) & 0x3fff) | (u64)(1024 >> 4) << 32 | 1ull << 62; }

#if KIND == 0
#define PRODUCT(shape, d, rest) "wgmma.mma_async.sync.aligned." shape "k16.f32.bf16.bf16 " d ", " rest ", p, 1, 1, 0, 0;\n}"
#else
#define PRODUCT(shape, d, rest) "wgmma.mma_async.sync.aligned." shape "k32.f32.e4m3.e4m3 " d ", " rest ", p, 1, 1;\n}"
#endif
#define R4(a, i) "+f"(a[i]), "+f"(a[i + 1]), "+f"(a[i + 2]), "+f"(a[i + 3])

// d (64 x COLUMNS) (+)= 32 bytes of each row of a and of b.
__device__ __forceinline__ void multiply(float (&d)[4 * COLS], u64 a, u64 b, int add) {
#if COLS == 1
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\n" PRODUCT("m64n8", "{%0,%1,%2,%3}", "%4, %5")
                 : R4(d, 0) : "l"(a), "l"(b), "r"(add));
#elif COLS == 2
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %10, 0;\n" PRODUCT("m64n16", "{%0,%1,%2,%3,%4,%5,%6,%7}", "%8, %9")
                 : R4(d, 0), R4(d, 4) : "l"(a), "l"(b), "r"(add));
#else
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
                 PRODUCT("m64n32", "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}", "%16, %17")
                 : R4(d, 0), R4(d, 4), R4(d, 8), R4(d, 12) : "l"(a), "l"(b), "r"(add));
#endif
}
// The compiler must not move uses of an accumulator across an issue or a wait.
__device__ __forceinline__ void pin(float (&d)[4 * COLS]) {
#pragma unroll
    for (int i = 0; i < 4 * COLS; ++i) asm volatile("" : "+f"(d[i]) :: "memory");
}

// What a block has to do: tiles of weight rows from `begin` to `end`, and `steps` units of K from `first`.
struct Share {
    int begin, end, tiles, first, steps;
    __device__ __forceinline__ Share(int cluster, int rank, int cluster_rows, int n_rows, int units) {
        begin = cluster * cluster_rows, end = min(begin + cluster_rows, n_rows);
        tiles = (end - begin + TILE - 1) / TILE;
        first = rank * units / CLUSTER, steps = (rank + 1) * units / CLUSTER - first;
    }
    __device__ __forceinline__ int boxes(int tile) const { return min((end - begin - tile * TILE + BOX - 1) / BOX, TILE / BOX); }
};

struct Memory {
    u32 ring, x, sums, full, empty, x_full, summed;  // the last four: barriers
    __device__ __forceinline__ Memory(u32 base) {
        ring = (base + 1023) & ~1023u, x = ring + SLOTS * SLOT_BYTES, sums = x + UNITS * X_BYTES, full = sums + 2 * GROUPS * SUM_BYTES;
        empty = full + SLOTS * 8, x_full = empty + SLOTS * 8, summed = x_full + UNITS * 8;
    }
};

__device__ __forceinline__ void produce(const Memory& at, const Share& share, const TensorMap* w_map, const TensorMap* x_map) {
    u64 once, usual;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(once));
    asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(usual));
    Waiter wait;
    const int total = share.tiles * share.steps, ahead = min(total, SLOTS);
    int tile = 0, step = 0;
    auto bring = [&](int i) {
        const int slot = i % SLOTS, boxes = share.boxes(tile), k = (share.first + step) * UNIT;
        if (i >= SLOTS) wait(at.empty + slot * 8, (i / SLOTS & 1) ^ 1);
        if (wait.lost) return;
        expect(at.full + slot * 8, boxes * BOX * UNIT);
        for (int b = 0; b < boxes; ++b)
            for (int half = 0; half < 2; ++half)
                copy_box(at.ring + slot * SLOT_BYTES + half * (TILE * 128) + b * (BOX * 128), w_map, k + half * 128,
                         share.begin + tile * TILE + b * BOX, at.full + slot * 8, once);
        if (++step == share.steps) step = 0, ++tile;
    };
    for (int i = 0; i < ahead; ++i) bring(i);
    asm volatile("griddepcontrol.wait;" ::: "memory");  // x is the previous kernel's; the weights above are not
    if (!LATE) asm volatile("griddepcontrol.launch_dependents;");
    for (int s = 0; s < share.steps; ++s) {
        expect(at.x_full + s * 8, X_BYTES);
        for (int half = 0; half < 2; ++half)
            copy_box(at.x + s * X_BYTES + half * (COLUMNS * 128), x_map, (share.first + s) * UNIT + half * 128, 0, at.x_full + s * 8, usual);
    }
    for (int i = ahead; i < total; ++i) bring(i);
    if (LATE) asm volatile("griddepcontrol.launch_dependents;");
}

struct Result {
    void* out;
    const float *x_scale, *w_scale;
    const u16* bias;
    int m_rows, n_rows;

    // Four neighbours of row m from column n on.
    __device__ __forceinline__ void store(int m, int n, float4 sum, bool lost) const {
        float v[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (KIND != 0) v[i] *= x_scale[m] * w_scale[n + i];
            if (bias) v[i] += __uint_as_float((u32)bias[n + i] << 16);
            if (lost) v[i] = __uint_as_float(0x7fc00000u);
        }
        const i64 at = (i64)m * n_rows + n;
#if OUT_F32
        *(float4*)((float*)out + at) = make_float4(v[0], v[1], v[2], v[3]);
#else
        *(uint2*)((u16*)out + at) = make_uint2((u32)to_bf16(v[0]) | (u32)to_bf16(v[1]) << 16, (u32)to_bf16(v[2]) | (u32)to_bf16(v[3]) << 16);
#endif
    }
};

__device__ __forceinline__ void consume(const Memory& at, const Share& share, const Result& result, int rank) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = warp >> 2, g = lane >> 2, c = lane & 3;
    Waiter wait;
    asm volatile("griddepcontrol.wait;" ::: "memory");  // scales are the previous kernel's, and it may still read `out`
    for (int tile = 0, i = 0; tile < share.tiles; ++tile) {
        float total[4 * COLS], d[4 * COLS];
#pragma unroll
        for (int j = 0; j < 4 * COLS; ++j) total[j] = d[j] = 0.f;
        for (int s = 0; s < share.steps; ++s, ++i) {
            if (i % GROUPS != group) continue;
            const int slot = i % SLOTS;
            wait(at.x_full + s * 8, 0);
            wait(at.full + slot * 8, i / SLOTS & 1);
            __syncwarp();                            // products and the cluster's barrier are a whole warp's
            pin(d);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (int k = 0; k < UNIT / 32; ++k)
                multiply(d, descriptor(at.ring + slot * SLOT_BYTES + k / 4 * (TILE * 128) + k % 4 * 32),
                         descriptor(at.x + s * X_BYTES + k / 4 * (COLUMNS * 128) + k % 4 * 32), k > 0);
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
            pin(d);
            if (lane == 0) arrive(at.empty + slot * 8);
#pragma unroll
            for (int j = 0; j < 4 * COLS; ++j) total[j] += d[j];
        }
        // Two buffers: who is at the next tile's barrier has read this tile's sums.
        const u32 sums = at.sums + (tile & 1) * (GROUPS * SUM_BYTES), summed = at.summed + (tile & 1) * 8;
#pragma unroll
        for (int j = 0; j < 4 * COLS; ++j) {
            const int row = (warp & 3) * 16 + g + 8 * (j >> 1 & 1), column = j / 4 * 8 + 2 * c + (j & 1);
            asm volatile("st.shared.f32 [%0], %1;" :: "r"(sums + group * SUM_BYTES + (column * PITCH + row) * 4), "f"(total[j]) : "memory");
        }
        __syncwarp();
        if (tile == 0) cluster_wait();               // the others' barriers are ready
        if (lane < CLUSTER) arrive_there(place_in(summed, lane));
        wait(summed, tile >> 1 & 1);
        const int quads = TILE / 4 / CLUSTER;
        for (int q = threadIdx.x; q < result.m_rows * quads; q += GROUPS * 128) {
            const int m = q / quads, row = rank * (TILE / CLUSTER) + q % quads * 4, n = share.begin + tile * TILE + row;
            if (n >= share.end) continue;
            float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
            for (int r = 0; r < CLUSTER; ++r)
#pragma unroll
                for (int w = 0; w < GROUPS; ++w) {
                    const float4 part = load_there(place_in(sums + w * SUM_BYTES + (m * PITCH + row) * 4, r));
                    sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
                }
            result.store(m, n, sum, wait.lost);
        }
        __syncwarp();
    }
}

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
bulk(void* __restrict__ out, const __grid_constant__ TensorMap x_map, const __grid_constant__ TensorMap w_map,
     const float* __restrict__ x_scale, const float* __restrict__ w_scale, const u16* __restrict__ bias, int m_rows, int n_rows,
     int k_bytes, int cluster_rows) {
    extern __shared__ u8 raw[];
    const Memory at(shared_address(raw));
    const int rank = blockIdx.x % CLUSTER;
    const Share share(blockIdx.x / CLUSTER, rank, cluster_rows, n_rows, (k_bytes + UNIT - 1) / UNIT);
    if (threadIdx.x == 0) {
        for (int i = 0; i < SLOTS; ++i) initialize(at.full + i * 8, 1), initialize(at.empty + i * 8, 4);
        for (int i = 0; i < UNITS; ++i) initialize(at.x_full + i * 8, 1);
        for (int i = 0; i < 2; ++i) initialize(at.summed + i * 8, CLUSTER * GROUPS * 4);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    if (threadIdx.x == GROUPS * 128) {
        asm volatile("prefetch.tensormap [%0];" :: "l"(&w_map) : "memory");
        asm volatile("prefetch.tensormap [%0];" :: "l"(&x_map) : "memory");
    }
    __syncthreads();
    cluster_arrive();
    if (threadIdx.x >= GROUPS * 128) {
        if (threadIdx.x == GROUPS * 128) produce(at, share, &w_map, &x_map);
        __syncwarp();
        cluster_wait();
    } else {
        consume(at, share, {out, x_scale, w_scale, bias, m_rows, n_rows}, rank);
    }
    __syncwarp();
    cluster_arrive();                                // nobody leaves while others read its sums
    cluster_wait();
}
