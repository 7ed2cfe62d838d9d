// out (M, N) = x (M, K) . w (N, K)^T in float32: a small kernel of the parts that the interpreter's tests want to see together.
//
// CLUSTER blocks (1, 2) beside each other take 64 rows of x each, and the same 256 rows of w, of which each brings a share for all of
// them by multicast. A thread of the last warp asks for boxes of 128 bytes of K; the first four warps multiply.
//
// Defined at compile time: KIND (0 bf16, 1 e4m3), CLUSTER, SLOTS. Grid (CLUSTER * ceil(M / 64 / CLUSTER), ceil(N / 256)), 160 threads.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

#define ROWS 64
#define COLUMNS 256
#define SHARE (COLUMNS / CLUSTER)  // rows of w that a block brings
#define X_BYTES (ROWS * 128)
#define SLOT_BYTES (X_BYTES + COLUMNS * 128)
#define TAKERS CLUSTER             // blocks whose slot must be free before one writes to it

struct __align__(64) TensorMap { u64 opaque[16]; };

__device__ __forceinline__ void initialize(u32 bar, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(bar), "r"(count) : "memory"); }
__device__ __forceinline__ void expect(u32 bar, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void arrive_in(u32 bar, int rank) {
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\nmbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n}"
                 :: "r"(bar), "r"(rank) : "memory");
}
__device__ __forceinline__ void wait(u32 bar, u32 parity) {
    for (u32 done = 0; !done;)
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done) : "r"(bar), "r"(parity) : "memory");
}
__device__ __forceinline__ void meet_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
#define COPY "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
__device__ __forceinline__ void copy_box(u32 to, const TensorMap* map, int k, int row, u32 bar) {
    asm volatile(COPY " [%0], [%1, {%2, %3}], [%4];" :: "r"(to), "l"(map), "r"(k), "r"(row), "r"(bar) : "memory");
}
__device__ __forceinline__ void copy_box(u32 to, const TensorMap* map, int k, int row, u32 bar, u16 blocks, u64 policy) {
    asm volatile(COPY ".multicast::cluster.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5, %6;"
                 :: "r"(to), "l"(map), "r"(k), "r"(row), "r"(bar), "h"(blocks), "l"(policy) : "memory");
}
__device__ __forceinline__ u64 descriptor(u32 at) { return (u64)((at >> 4) & 0x3fff) | (u64)(1024 >> 4) << 32 | 1ull << 62; }

#if KIND == 0
#define TYPES "k16.f32.bf16.bf16 "
#define MODIFIERS "p, 1, 1, 0, 0"
#else
#define TYPES "k32.f32.e4m3.e4m3 "
#define MODIFIERS "p, 1, 1"
#endif
#define R4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define R32(i) R4(i), R4(i + 4), R4(i + 8), R4(i + 12), R4(i + 16), R4(i + 20), R4(i + 24), R4(i + 28)

__device__ __forceinline__ void multiply(float (&d)[128], u64 a, u64 b, int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\nwgmma.mma_async.sync.aligned.m64n256" TYPES
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
                 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
                 "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"
                 "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}"
                 ", %128, %129, " MODIFIERS ";\n}"
                 : R32(0), R32(32), R32(64), R32(96) : "l"(a), "l"(b), "r"(add));
}
__device__ __forceinline__ void pin(float (&d)[128]) {
#pragma unroll
    for (int i = 0; i < 128; ++i) asm volatile("" : "+f"(d[i]) :: "memory");
}

extern __shared__ unsigned char raw[];

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(160, 1)
boxes(const __grid_constant__ TensorMap x_map, const __grid_constant__ TensorMap w_map, float* out, int m_rows, int n_rows, int k_bytes) {
    __shared__ u64 barriers[2 * SLOTS];
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    const u32 base = ((u32)__cvta_generic_to_shared(raw) + 1023) & ~1023u, full = (u32)__cvta_generic_to_shared(barriers), empty = full + SLOTS * 8;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = blockIdx.x * ROWS, column = blockIdx.y * COLUMNS, steps = (k_bytes + 127) / 128;
    if (threadIdx.x == 0) {
        for (int i = 0; i < SLOTS; ++i) initialize(full + i * 8, 1), initialize(empty + i * 8, 4 * TAKERS);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    meet_cluster();  // everybody's barriers are there
    if (warp == 4) {
        if (lane == 0) {
            u64 policy;
            asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
            asm volatile("prefetch.tensormap [%0];" :: "l"(&w_map) : "memory");
            asm volatile("griddepcontrol.wait;" ::: "memory");
            asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" :: "l"(&x_map), "r"(0), "r"(row) : "memory");
            for (int i = 0; i < steps; ++i) {
                const int slot = i % SLOTS;
                const u32 at = base + slot * SLOT_BYTES, bar = full + slot * 8;
                if (i >= SLOTS) wait(empty + slot * 8, (i / SLOTS & 1) ^ 1);
                expect(bar, SLOT_BYTES);
                copy_box(at, &x_map, i * 128, row, bar);
                copy_box(at + X_BYTES + rank * SHARE * 128, &w_map, i * 128, column + rank * SHARE, bar, (1 << CLUSTER) - 1, policy);
            }
        }
        __syncwarp();
    } else {
        float d[128];
        for (int i = 0; i < 128; ++i) d[i] = 0;
        for (int i = 0; i < steps; ++i) {
            const int slot = i % SLOTS;
            const u32 at = base + slot * SLOT_BYTES;
            wait(full + slot * 8, i / SLOTS & 1);
            pin(d);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (int part = 0; part < 4; ++part) multiply(d, descriptor(at + part * 32), descriptor(at + X_BYTES + part * 32), i + part > 0);
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
            pin(d);
            if (lane < TAKERS) arrive_in(empty + slot * 8, (rank + lane) % CLUSTER);
        }
        asm volatile("griddepcontrol.wait;" ::: "memory");  // the previous kernel may read `out`
#pragma unroll
        for (int i = 0; i < 128; ++i) {
            const int m = row + warp * 16 + (lane >> 2) + 8 * (i >> 1 & 1), n = column + (i >> 2) * 8 + 2 * (lane & 3) + (i & 1);
            if (m < m_rows && n < n_rows) out[(long long)m * n_rows + n] = d[i];
        }
    }
    meet_cluster();  // nobody leaves whose memory others write to
}
