// out (M, F) = silu(x . gate^T) * (x . up^T) for many rows M, for Hopper's warpgroup products (sm_90a): w (2F, K) holds gate's rows, then up's.
//
// The product of 2F columns never goes to memory: a tile is 128 rows of x by 128 of gate's and the 128 of up's that belong to them, so
// that a thread has both factors of an output in its own registers. Two blocks form a cluster: rows of x of their own, the same rows of
// w, of which one fetches gate's and the other up's, both into the shared memory of both. Clusters are persistent and take tiles in an
// order that keeps neighbours in the L2.
//   one producer thread: boxes of 128 bytes of K, 128-byte swizzle, into a ring of SLOTS
//   two consumer warpgroups, 64 rows each: sums (64 x 256) by wgmma, both factors from shared memory; a slot is free once the
//     consumers of both blocks have said so, since what comes next is for both
//
// Defined at compile time: FP8 (0: bf16; 1: e4m3 with a scale for each row of x and of w), ROUNDS (with FP8: out is e4m3 by the scale
// input_scale[0], which goes to out_scale for every row; 0: bf16). F is a multiple of 128, K * element size of 128.
// Dynamic shared memory: SHARED bytes.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef unsigned long long u64;
typedef long long i64;

#define ROWS 128                                     // of x in a tile
#define COLUMNS 128                                  // of the output in a tile
#define LINE 128                                     // bytes of K in a slot
#define PIECE (128 * LINE)                           // 128 rows of x, of gate's or of up's
#define SLOTS 4
#define ELEMENT (ROUNDS ? 1 : 2)                     // bytes of an output
#define PASSES ELEMENT                               // of 128 bytes of each of a warp's rows
#define PITCH 144                                    // bytes of a row of them: no bank conflict
#define STAGING (16 * PITCH)                         // of a warp
#define SCALES (256 * 4)                              // bytes: a tile's scales of w, for a warpgroup
#define SHARED (1024 + SLOTS * 3 * PIECE + 8 * STAGING + 4 * SCALES)
#define GROUP 8                                      // pairs of row tiles that go through all columns together
#define PATIENCE (1 << 24)                           // polls of a barrier: a mistake must end in wrong numbers, not in a hang

struct __align__(64) TensorMap { u64 opaque[16]; };

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void initialize(u32 bar, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(bar), "r"(count) : "memory"); }
__device__ __forceinline__ void expect(u32 bar, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(bar), "r"(bytes) : "memory");
}
// At the same barrier of block `rank` of the cluster.
__device__ __forceinline__ void arrive_at(u32 bar, u32 rank) {
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [there];\n}"
                 :: "r"(bar), "r"(rank) : "memory");
}
__device__ __forceinline__ bool reached(u32 bar, u32 parity) {
    u32 done;
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done) : "r"(bar), "r"(parity) : "memory");
    return done;
}
struct Waiter {
    bool lost = false;
    __device__ __forceinline__ void operator()(u32 bar, u32 parity) {
        for (int i = 0; !lost && !reached(bar, parity); ++i) lost = i >= PATIENCE;
    }
};
__device__ __forceinline__ void meet_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ void fetch(u32 to, const TensorMap* map, int byte, int row, u32 bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                 :: "r"(to), "l"(map), "r"(byte), "r"(row), "r"(bar) : "memory");
}
// Into both blocks, each of whose barriers is told.
__device__ __forceinline__ void fetch_for_both(u32 to, const TensorMap* map, int byte, int row, u32 bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;"
                 :: "r"(to), "l"(map), "r"(byte), "r"(row), "r"(bar), "h"((u16)3) : "memory");
}

// Rows of 128 bytes along the contraction, 128-byte swizzled, eight rows every 1024 bytes.
__device__ __forceinline__ u64 descriptor(u32 at) { return (u64)((at >> 4) & 0x3fff) | (u64)(1024 >> 4) << 32 | 1ull << 62; }

#define R8(a, i) "+f"(a[i]), "+f"(a[i + 1]), "+f"(a[i + 2]), "+f"(a[i + 3]), "+f"(a[i + 4]), "+f"(a[i + 5]), "+f"(a[i + 6]), "+f"(a[i + 7])
#define R64(a, i) R8(a, i), R8(a, i + 8), R8(a, i + 16), R8(a, i + 24), R8(a, i + 32), R8(a, i + 40), R8(a, i + 48), R8(a, i + 56)
#define D128 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31," \
             "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63," \
             "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95," \
             "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}"

__device__ __forceinline__ void multiply(float (&d)[128], u64 a, u64 b, int add) {
#if FP8
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k32.f32.e4m3.e4m3 " D128 ", %128, %129, p, 1, 1;\n}"
                 : R64(d, 0), R64(d, 64) : "l"(a), "l"(b), "r"(add));
#else
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 " D128 ", %128, %129, p, 1, 1, 0, 0;\n}"
                 : R64(d, 0), R64(d, 64) : "l"(a), "l"(b), "r"(add));
#endif
}
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void wait_products() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(LEFT) : "memory"); }
// The compiler must not move uses of an accumulator across an issue or a wait.
__device__ __forceinline__ void pin(float (&d)[128]) {
#pragma unroll
    for (int i = 0; i < 128; ++i) asm volatile("" : "+f"(d[i]) :: "memory");
}

__device__ __forceinline__ float silu_mul(float gate, float up) {
#if FP8                                              // one special function instead of two; its error is below e4m3's, which comes next
    float t;
    asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(gate * .5f));
    return gate * .5f * (1.f + t) * up;
#else
    float e, r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(gate * -1.4426950408889634f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(1.f + e));
    return gate * r * up;
#endif
}
__device__ __forceinline__ void store_pair(u32 at, float lo, float hi) {
#if ROUNDS
    u16 d;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(d) : "f"(hi), "f"(lo));
    asm volatile("st.shared.u16 [%0], %1;" :: "r"(at), "h"(d) : "memory");
#else
    u32 d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo));
    asm volatile("st.shared.u32 [%0], %1;" :: "r"(at), "r"(d) : "memory");
#endif
}

__device__ __forceinline__ float2 load_pair(u32 at) {
    float2 v;
    asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(at) : "memory");
    return v;
}

struct Tile { int row, column; };                    // the first of this block's

// The `index`-th of a cluster's pairs of row tiles.
__device__ __forceinline__ Tile tile_at(int index, int pairs, int column_tiles, int rank) {
    const int group = index / (GROUP * column_tiles), first = group * GROUP, height = min(GROUP, pairs - first);
    const int inside = index - group * GROUP * column_tiles;
    return {((first + inside % height) * 2 + rank) * ROWS, inside / height * COLUMNS};
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)
gated(u8* __restrict__ out, const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, const float* __restrict__ x_scale,
      const float* __restrict__ w_scale, int m_rows, int features, int k_bytes, float* __restrict__ out_scale,
      const float* __restrict__ input_scale) {
    extern __shared__ u8 raw[];
    __shared__ u64 barriers[2 * SLOTS];
    const u32 ring = (shared_address(raw) + 1023) & ~1023u, full = shared_address(barriers), empty = full + SLOTS * 8;
    const int group = threadIdx.x / 128, rank = blockIdx.x & 1;
    const int pairs = (m_rows + 2 * ROWS - 1) / (2 * ROWS), column_tiles = features / COLUMNS, lines = k_bytes / LINE;
    if (threadIdx.x == 0) {
#pragma unroll
        for (int i = 0; i < SLOTS; ++i) initialize(full + i * 8, 1), initialize(empty + i * 8, 16);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    meet_cluster();
    Waiter wait;
    int step = 0;                                    // of the ring

    // Registers a thread, of 168 at the launch: an increase that the decrease does not make room for waits for ever.
    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) {
            for (int index = blockIdx.x / 2; index < pairs * column_tiles; index += gridDim.x / 2) {
                const Tile tile = tile_at(index, pairs, column_tiles, rank);
                for (int line = 0; line < lines; ++line, ++step) {
                    const u32 slot = step % SLOTS, bar = full + slot * 8, at = ring + slot * 3 * PIECE;
                    wait(empty + slot * 8, (step / SLOTS & 1) ^ 1);
                    expect(bar, 3 * PIECE);
                    fetch(at, &x, line * LINE, tile.row, bar);
                    fetch_for_both(at + (1 + rank) * PIECE, &w, line * LINE, tile.column + rank * features, bar);
                }
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        const int lane = threadIdx.x & 31, warp = threadIdx.x / 32 - 4, g = lane >> 2, c = lane & 3;
        const u32 staging = ring + SLOTS * 3 * PIECE + warp * STAGING;
#if FP8
        const u32 scales = ring + SLOTS * 3 * PIECE + 8 * STAGING + (group - 1) * 2 * SCALES;
        u32 turn = 0;
#endif
        for (int index = blockIdx.x / 2; index < pairs * column_tiles; index += gridDim.x / 2) {
            const Tile tile = tile_at(index, pairs, column_tiles, rank);
            const int row = tile.row + warp * 16;
            float scale[2] = {1.f, 1.f};
#if FP8
#pragma unroll
            for (int r = 0; r < 2; ++r) scale[r] = x_scale[min(row + r * 8 + g, m_rows - 1)];
            const float* of_column = w_scale + tile.column + threadIdx.x % 128;
            const float of_gate_column = of_column[0];
            float of_up_column = of_column[features];
#if ROUNDS
            of_up_column *= 1.f / input_scale[0];
            if (tile.column == 0 && lane < 16 && row + lane < m_rows) out_scale[row + lane] = input_scale[0];
#endif
#endif
            float d[128];
            for (int line = 0; line < lines; ++line, ++step) {
                const u32 slot = step % SLOTS, at = ring + slot * 3 * PIECE;
                wait(full + slot * 8, step / SLOTS & 1);
                __syncwarp();                        // products are a whole warp's
                const u64 rows = descriptor(at + (group - 1) * 64 * LINE), columns = descriptor(at + PIECE);
                pin(d);
                begin_products();
#pragma unroll
                for (int i = 0; i < LINE / 32; ++i) multiply(d, rows + 2 * i, columns + 2 * i, line | i);
                commit_products();
                pin(d);
                // The line before has been read, once no more than this one's products are under way.
                wait_products<1>();
                if (line > 0 && lane < 2) arrive_at(empty + (step - 1) % SLOTS * 8, lane);
            }
            wait_products<0>();
            pin(d);
            if (lane < 2) arrive_at(empty + (step - 1) % SLOTS * 8, lane);

#if FP8
            // Two places in turn: who writes to one again has met those who read it.
            turn ^= SCALES;
            asm volatile("st.shared.f32 [%0], %2;\nst.shared.f32 [%1], %3;" :: "r"(scales + turn + threadIdx.x % 128 * 4),
                         "r"(scales + turn + 512 + threadIdx.x % 128 * 4), "f"(of_gate_column), "f"(of_up_column) : "memory");
            asm volatile("bar.sync %0, 128;" :: "r"(group) : "memory");
#endif
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) {
                __syncwarp();
#pragma unroll
                for (int j = 0; j < 16 / PASSES; ++j) {
                    const int i = pass * 16 / PASSES + j;
                    float2 of_gate = {1.f, 1.f}, of_up = {1.f, 1.f};
#if FP8
                    of_gate = load_pair(scales + turn + (i * 8 + 2 * c) * 4), of_up = load_pair(scales + turn + 512 + (i * 8 + 2 * c) * 4);
#endif
#pragma unroll
                    for (int r = 0; r < 2; ++r) {
                        const float *gate = d + i * 4 + 2 * r, *up = gate + 64;
                        const float first = silu_mul(gate[0] * scale[r] * of_gate.x, up[0] * scale[r] * of_up.x);
                        const float second = silu_mul(gate[1] * scale[r] * of_gate.y, up[1] * scale[r] * of_up.y);
                        store_pair(staging + (r * 8 + g) * PITCH + (j * 8 + c * 2) * ELEMENT, first, second);
                    }
                }
                __syncwarp();
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int at = i * 4 + lane / 8, chunk = lane % 8;
                    u32 v[4];
                    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                                 : "r"(staging + at * PITCH + chunk * 16) : "memory");
                    u8* to = out + ((i64)(row + at) * features + tile.column) * ELEMENT + pass * 128 + chunk * 16;
                    if (row + at < m_rows)
                        asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" :: "l"(to), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
                }
            }
        }
    }
    meet_cluster();                                  // the other block may still fetch for this one, or arrive here
}
