// Causal attention of prompts over their paged context, prefix and new tokens, for Hopper's warpgroup products (sm_90a).
//
// A persistent block takes 128 query rows at a time: consecutive tokens of one sequence with the GROUP heads of one KV head
// each. Four producer warps bring queries, an item ahead, and 128 keys or values at a time into a ring of shared memory, gathered
// page by page, an instruction each; two consumer warpgroups have 64 rows each and issue the next tile's scores before they take in this tile's
// values, so that one product runs while the softmax of another is computed (FlashAttention-3, arXiv:2407.08608).
//   scores (64 x 128) = Q . K^T     both from shared memory, 128-byte swizzle
//   out (64 x 128)   += P . V       P from registers: an accumulator's layout is a fragment's
// FP8 becomes fp16, which holds e4m3 exactly, on its way to shared memory. Tokens past a sequence's end are stored as zeros:
// stale slots may hold NaN, and 0 * NaN is not 0. Tiles go from the last keys to the first, masks first.
//
// ROTATES: q is the qkv product itself, [tokens][kv heads * (GROUP + 2)][128], whose keys and values the cache holds already. Queries
// land as they are; beside the tiles of the item before, producers rotate them in place (and norm them first, where there are weights to).
//
// ROUNDS: out is e4m3 by one calibrated scale, which is also stored for every token: what the linear that reads it wants.
//
// Defined at compile time: ROTATES (0, 1), ROUNDS (0, 1), GROUP (query heads per KV head), PAGE (a power of two from 16 on), KV_FP8 (0, 1). Head dim 128.
// Cache: [2][pages][kv heads][PAGE][128]. q and out: [tokens][kv heads * GROUP][128] bf16, or out e4m3. Dynamic shared memory: SHARED bytes.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef unsigned long long u64;
typedef long long i64;

#define DIM 128
#define KEYS 128
#define SLOTS 4
#define TILE_BYTES (KEYS * DIM * 2)
#define HALF_BYTES (KEYS * 128)                      // a tile lies as two halves of 64 columns, 128 bytes a row
#define Q_BYTES (64 * DIM * 2)                       // of one warpgroup: halves of 64 rows * 128 bytes
#define SHARED (SLOTS * TILE_BYTES + 4 * Q_BYTES + 1024)
#define TOKENS (128 / GROUP)                         // query tokens of a work item
#define ELEMENT (KV_FP8 ? 1 : 2)
#define OUT_CHUNKS (ROUNDS ? 8 : 16)                 // of 16 bytes, in a row of the output
#define PASSES (KEYS / 8)                            // of 128 threads over a tile, 8 rows each
#define PAGES (PAGE >= KEYS ? 1 : KEYS / PAGE)       // page-table entries of a tile
#define NOTHING __int_as_float(0xff800000)           // minus infinity, which NVRTC has no name for
#define PATIENCE (1 << 22)                           // polls of a barrier: a mistake must end in NaN, not in a hang

struct Words { u32 w[4]; };

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ float exp2_(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ u32 pack_bf16(float lo, float hi) { u32 d; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo)); return d; }
__device__ __forceinline__ u32 pack_f16(float lo, float hi) { u32 d; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo)); return d; }
__device__ __forceinline__ u32 pack(float lo, float hi) { return KV_FP8 ? pack_f16(lo, hi) : pack_bf16(lo, hi); }
// One half of a pair of bf16, and the pair as the products take queries.
__device__ __forceinline__ float half_of(u32 pair, int upper) { return __uint_as_float(upper ? pair & 0xffff0000u : pair << 16); }
__device__ __forceinline__ u32 operand(u32 pair) { return KV_FP8 ? pack_f16(half_of(pair, 0), half_of(pair, 1)) : pair; }
__device__ __forceinline__ void store_shared(u32 at, Words v) {
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" :: "r"(at), "r"(v.w[0]), "r"(v.w[1]), "r"(v.w[2]), "r"(v.w[3]) : "memory");
}
__device__ __forceinline__ Words load_shared(u32 at) {
    Words v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3]) : "r"(at) : "memory");
    return v;
}
__device__ __forceinline__ Words load_global(const u8* p) {
    Words v;
    asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3]) : "l"(p));
    return v;
}
__device__ __forceinline__ uint2 load_pair(const u8* p) {
    uint2 v;
    asm volatile("ld.global.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}
__device__ __forceinline__ void store_global(u8* p, Words v) {
    asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" :: "l"(p), "r"(v.w[0]), "r"(v.w[1]), "r"(v.w[2]), "r"(v.w[3]) : "memory");
}
// 16 bytes, or zeros.
__device__ __forceinline__ void copy_async(u32 to, const void* from, bool real) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(real ? 16 : 0) : "memory");
}
// `x`, about which the compiler knows nothing: it computes nothing from it ahead, nor again what it was computed from.
__device__ __forceinline__ int opaque(int x) { asm volatile("" : "+r"(x)); return x; }
__device__ __forceinline__ u64 opaque(u64 x) { asm volatile("" : "+l"(x)); return x; }
// Where 16-byte chunk `chunk` (0-15) of row `row` lies in a tile of halves of `half` bytes.
__device__ __forceinline__ u32 place(int row, int chunk, u32 half) {
    return (chunk >> 3) * half + row * 128 + (((chunk & 7) ^ (row & 7)) << 4);
}
// Columns `column` and `column` + 1 of a row of the output, on their way through shared memory.
__device__ __forceinline__ void store_staged(u32 tile, int row, int column, float lo, float hi) {
#if ROUNDS
    u16 pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(hi), "f"(lo));
    asm volatile("st.shared.u16 [%0], %1;" :: "r"(tile + place(row, column / 16, 64 * 128) + column % 16), "h"(pair) : "memory");
#else
    asm volatile("st.shared.u32 [%0], %1;" :: "r"(tile + place(row, column / 8, 64 * 128) + column % 8 * 2), "r"(pack_bf16(lo, hi)) : "memory");
#endif
}
// What other threads stored, and this one has seen arrive, may be read by its products. The readers fence: a fence of the producers
// would wait for the loads that they have under way.
__device__ __forceinline__ void open_to_products() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncwarp();                                    // products are a whole warp's
}
__device__ __forceinline__ void initialize(u32 bar, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(bar), "r"(count)); }
__device__ __forceinline__ void arrive(u32 bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(bar) : "memory"); }
// Once all that this thread has asked to be copied until now has landed.
__device__ __forceinline__ void arrive_with_copies(u32 bar) { asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" :: "r"(bar) : "memory"); }
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

// Matrix descriptors of 128-byte swizzled tiles. Rows of 128 bytes along the contraction (Q, K), or across it (V).
__device__ __forceinline__ u64 descriptor(u32 at, u32 leading) {
    return (u64)((at >> 4) & 0x3fff) | (u64)(leading >> 4) << 16 | (u64)(1024 >> 4) << 32 | 1ull << 62;
}

#define R8(a, i) "+f"(a[i]), "+f"(a[i + 1]), "+f"(a[i + 2]), "+f"(a[i + 3]), "+f"(a[i + 4]), "+f"(a[i + 5]), "+f"(a[i + 6]), "+f"(a[i + 7])
#define R64(a) R8(a, 0), R8(a, 8), R8(a, 16), R8(a, 24), R8(a, 32), R8(a, 40), R8(a, 48), R8(a, 56)
#define D64 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31," \
            "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}"
#if KV_FP8
#define KIND "f16.f16"
#else
#define KIND "bf16.bf16"
#endif

__device__ __forceinline__ void multiply_shared(float (&d)[64], u64 a, u64 b, int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." KIND " " D64 ", %64, %65, p, 1, 1, 0, 0;\n}"
                 : R64(d) : "l"(a), "l"(b), "r"(add));
}
__device__ __forceinline__ void multiply_register(float (&d)[64], const u32* a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." KIND " " D64 ", {%64,%65,%66,%67}, %68, 1, 1, 1, 1;\n"
                 : R64(d) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void wait_products() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(LEFT) : "memory"); }
// The compiler must not move uses of an accumulator across an issue or a wait.
__device__ __forceinline__ void pin(float (&d)[64]) {
#pragma unroll
    for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(d[i]) :: "memory");
}

struct Work {
    int seq, head, first_row, query, count, length, position, end, begin, tiles;  // position: of the first query
};

struct Place { int seq, query, head; };

__device__ __forceinline__ Work work_item(Place at, const int* query_starts, const int* lengths, int window) {
    Work w;
    w.seq = at.seq, w.query = at.query, w.head = at.head;
    w.first_row = query_starts[w.seq], w.count = query_starts[w.seq + 1] - w.first_row, w.length = lengths[w.seq];
    w.position = w.length - w.count + w.query;
    w.end = min(w.position + TOKENS, w.length);
    w.begin = window > 0 ? max(w.position - window + 1, 0) / KEYS * KEYS : 0;
    w.tiles = (w.end - w.begin + KEYS - 1) / KEYS;
    return w;
}

#if KV_FP8
__device__ __forceinline__ u32 widen(u32 pair) { u32 d; asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(d) : "h"((u16)pair)); return d; }
#endif

struct Tile {
    int key, entries[PAGES];                         // its first token, and where its pages are
    i64 side;                                        // byte offset of the values
};

// A lane takes eight columns of every eighth row: all addresses of a page lie at constant distances.
struct Producer {
    const u8* cache;                                 // of the KV head
    const int* pages;
    u32 page_bytes;
    int length, lane;                                // lane: 0-127

    static constexpr int PER_PAGE = PASSES / PAGES;  // 8 rows each

    // visit(pass, address of this lane's columns, whether there is such a token). What is opaque stays in registers: every pass is
    // an instruction then, instead of a computation of its own.
    template <class Visit> __device__ __forceinline__ void each(const Tile& t, Visit visit) const {
        const int inside = PAGE > KEYS ? t.key % PAGE : 0, left = opaque(length - t.key - lane / 16);
        const u64 own = opaque((u64)(cache + t.side + ((inside + lane / 16) * DIM + lane % 16 * 8) * ELEMENT));
#pragma unroll
        for (int page = 0; page < PAGES; ++page) {
            const u64 at = opaque(own + (u64)(u32)t.entries[page] * page_bytes);
#pragma unroll
            for (int i = 0; i < PER_PAGE; ++i) visit(page * PER_PAGE + i, at + i * 8 * DIM * ELEMENT, (page * PER_PAGE + i) * 8 < left);
        }
    }
    __device__ __forceinline__ u32 target(u32 tile) const { return (u32)opaque((int)(tile + place(lane / 16, lane % 16, HALF_BYTES))); }

    __device__ __forceinline__ void find_pages(int key, int (&entries)[PAGES]) const {
#pragma unroll
        for (int i = 0; i < PAGES; ++i) entries[i] = key + i * PAGE < length ? pages[(key + i * PAGE) / PAGE] : 0;
    }
#if KV_FP8
    __device__ __forceinline__ void load(uint2 (&held)[PASSES], const Tile& t) const {
        each(t, [&](int i, u64 at, bool real) { held[i] = real ? load_pair((const u8*)at) : make_uint2(0, 0); });
    }
    __device__ __forceinline__ void store(const uint2 (&held)[PASSES], u32 tile) const {
        const u32 to = target(tile);
#pragma unroll
        for (int i = 0; i < PASSES; ++i)
            store_shared(to + i * 8 * 128, {{widen(held[i].x & 0xffff), widen(held[i].x >> 16), widen(held[i].y & 0xffff), widen(held[i].y >> 16)}});
    }
#else
    __device__ __forceinline__ void copy(u32 tile, const Tile& t) const {
        const u32 to = target(tile);
        each(t, [&](int i, u64 at, bool real) { copy_async(to + i * 8 * 128, (const void*)at, real); });
    }
#endif
};

#if ROTATES
struct Rotation {
    const float* table;                              // of a position: 64 cosines, then 64 sines
    const u16* norm;                                 // 128 weights, or null
    float eps;
    int lane;

    // A lane takes eight rows, and of each the chunks `lane % 8` and 8 more, whose columns rotation mixes: no other lane needs them.
    __device__ __forceinline__ void bring(u32 queries, const Work& w, const u16* qkv, int kv_heads) const {
        const int own = opaque(lane);
#pragma unroll 2
        for (int i = 0; i < 8; ++i) {
            const int row = opaque(own / 8 * 8 + i), token = w.query + row / GROUP;
            const bool real = token < w.count && row < TOKENS * GROUP;
            const u16* at = qkv + ((i64)(w.first_row + token) * kv_heads * (GROUP + 2) + w.head * GROUP + row % GROUP) * DIM + own % 8 * 8;
            const u32 to = queries + row / 64 * Q_BYTES + place(row % 64, own % 8, 64 * 128);
            copy_async(to, real ? at : qkv, real);
            copy_async(to + 64 * 128, real ? at + 64 : qkv, real);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    // In place, the `pair`-th two of each lane's rows. Rows past the sequence are zeros at any angle.
    __device__ __forceinline__ void operator()(u32 queries, const Work& w, int pair) const {
        const int chunk = lane % 8;
        float4 cosines[2], sines[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int row = opaque(lane / 8 * 8 + 2 * pair + i);
            if (i == 0 || GROUP % 2) {               // else both are heads of one token
                const float4* angles = (const float4*)(table + (i64)min(w.position + row / GROUP, w.length - 1) * DIM + chunk * 8);
                cosines[0] = angles[0], cosines[1] = angles[1], sines[0] = angles[16], sines[1] = angles[17];
            }
            const u32 at = queries + row / 64 * Q_BYTES + place(row % 64, chunk, 64 * 128);
            rotate(at, cosines, sines, chunk);
        }
    }
    __device__ __forceinline__ void rotate(u32 at, const float4 (&cosines)[2], const float4 (&sines)[2], int chunk) const {
        Words a = load_shared(at), b = load_shared(at + 64 * 128);
        float first[8], second[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) first[j] = half_of(a.w[j / 2], j % 2), second[j] = half_of(b.w[j / 2], j % 2);
        if (norm) {
            float sum = 0.f;
#pragma unroll
            for (int j = 0; j < 8; ++j) sum += first[j] * first[j] + second[j] * second[j];
#pragma unroll
            for (int d = 1; d < 8; d <<= 1) sum += __shfl_xor_sync(~0u, sum, d);
            const float inverse = rsqrtf(sum / DIM + eps);
            const Words of_first = load_global((const u8*)(norm + chunk * 8)), of_second = load_global((const u8*)(norm + chunk * 8 + 64));
#pragma unroll
            for (int j = 0; j < 8; ++j) first[j] *= inverse * half_of(of_first.w[j / 2], j % 2), second[j] *= inverse * half_of(of_second.w[j / 2], j % 2);
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const float cosine = (&cosines[j / 4].x)[j % 4], sine = (&sines[j / 4].x)[j % 4], lo = first[j], hi = second[j];
            first[j] = lo * cosine - hi * sine, second[j] = hi * cosine + lo * sine;
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            a.w[j] = operand(pack_bf16(first[2 * j], first[2 * j + 1]));
            b.w[j] = operand(pack_bf16(second[2 * j], second[2 * j + 1]));
        }
        store_shared(at, a);
        store_shared(at + 64 * 128, b);
    }
};
#endif

template <bool B> struct Is { static constexpr bool value = B; };

// Masks and exponentiates a tile's raw scores in place; `top` and `total` are a lane's two rows'. Returns what decays the past.
struct Softmax {
    float top[2], total[2], decay[2];
    template <bool MASKED>
    __device__ __forceinline__ void take(float (&s)[64], int key, int c, const int (&position)[2], int window, float scale) {
        if (MASKED) {
            int newest[2], oldest[2];                // of this lane's columns, what its rows may see: oldest < column <= newest
#pragma unroll
            for (int r = 0; r < 2; ++r) newest[r] = position[r] - key - 2 * c, oldest[r] = window > 0 ? newest[r] - window : -1;
#pragma unroll
            for (int i = 0; i < 64; ++i) {
                const int column = i / 4 * 8 + (i & 1), r = i >> 1 & 1;
                if (column > newest[r] || column <= oldest[r]) s[i] = NOTHING;
            }
        }
        float best[2] = {top[0], top[1]}, other[2] = {top[0], top[1]}, more[2] = {0.f, 0.f};  // two chains each
#pragma unroll
        for (int i = 0; i < 64; i += 2) {
            best[i >> 1 & 1] = fmaxf(best[i >> 1 & 1], s[i]);
            other[i >> 1 & 1] = fmaxf(other[i >> 1 & 1], s[i + 1]);
        }
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            best[r] = fmaxf(best[r], other[r]);
            best[r] = fmaxf(best[r], __shfl_xor_sync(~0u, best[r], 1));
            best[r] = fmaxf(best[r], __shfl_xor_sync(~0u, best[r], 2));
            const float base = best[r] == NOTHING ? 0.f : best[r] * scale;
            decay[r] = exp2_(top[r] * scale - base);
            top[r] = best[r], total[r] *= decay[r], best[r] = base;
        }
#pragma unroll
        for (int i = 0; i < 64; ++i) {
            s[i] = exp2_(s[i] * scale - best[i >> 1 & 1]);
            (i & 1 ? more : total)[i >> 1 & 1] += s[i];
        }
        total[0] += more[0], total[1] += more[1];
    }
};

extern "C" __global__ void __launch_bounds__(384, 1)
paged_prefill(u8* __restrict__ out, const u16* __restrict__ q, const u8* __restrict__ kv, const int* __restrict__ page_table,
              const int* __restrict__ rows, const int* __restrict__ query_starts, const int* __restrict__ lengths,
              const int* __restrict__ tile_seqs, const int* __restrict__ tile_starts, i64 value_offset, int max_pages,
              int kv_heads, int items, int window, float score_scale, float value_scale
#if ROUNDS
              , const float* __restrict__ rounding_scale, float* __restrict__ out_scales
#endif
#if ROTATES
              , const float* __restrict__ table, const u16* __restrict__ q_norm, float eps
#endif
              ) {
    extern __shared__ u8 raw[];
    __shared__ u64 barriers[2 * SLOTS + 4];
    __shared__ Work works[2];
    const u32 ring = (shared_address(raw) + 1023) & ~1023u, queries = ring + SLOTS * TILE_BYTES;
    const u32 full = shared_address(barriers), empty = full + SLOTS * 8, query_full = empty + SLOTS * 8, query_empty = query_full + 16;
    const int group = threadIdx.x / 128, lane = threadIdx.x % 128;
    if (threadIdx.x == 0) {
#pragma unroll
        for (int i = 0; i < SLOTS; ++i) initialize(full + i * 8, 128), initialize(empty + i * 8, 8);
#pragma unroll
        for (int i = 0; i < 2; ++i) initialize(query_full + i * 8, 129), initialize(query_empty + i * 8, 8);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    Waiter wait;
    int step = 0;                                    // of the ring: K0 | K1 V0 | K2 V1 | ... | V of the last, then the next item

    // Registers a thread, of 168 at the launch: an increase that the decrease does not make room for waits for ever.
    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 104;");
        Producer from;
        from.lane = lane, from.page_bytes = (u32)kv_heads * PAGE * DIM * ELEMENT;
#if KV_FP8
        uint2 even[PASSES], odd[PASSES];             // loads of the one are under way while the other is stored
        int pending = -1;                            // the step whose bytes are still in registers
        auto put = [&](const uint2 (&held)[PASSES]) {
            if (pending < 0) return;
            const int slot = pending % SLOTS;
            wait(empty + slot * 8, (pending / SLOTS & 1) ^ 1);
            from.store(held, ring + slot * TILE_BYTES);
            arrive(full + slot * 8);
            pending = -1;
        };
        auto send = [&](uint2 (&own)[PASSES], const uint2 (&other)[PASSES], const Tile& t) {
            from.load(own, t);
            put(other);
            pending = step++;
        };
#else
        const int even = 0, odd = 0;                 // copies need no registers
        auto send = [&](int, int, const Tile& t) {
            const int slot = step % SLOTS;
            wait(empty + slot * 8, (step / SLOTS & 1) ^ 1);
            from.copy(ring + slot * TILE_BYTES, t);
            arrive_with_copies(full + slot * 8);
            ++step;
        };
#endif
#if ROTATES
        const Rotation rotation = {table, q_norm, eps, lane};
        int rotated = 4;                             // of the queries that set out last: pairs of a lane's rows that are whole
#endif
        // What an item is, and its queries: 128 rows of 16 chunks, a row is one token's one head, and rows past the sequence or the
        // group are zeros. With ROTATES they only set out; `rotate` makes them whole.
        auto offer = [&](const Work& w, int turn) {
            const u32 here = queries + (turn & 1) * 2 * Q_BYTES, bar = query_full + (turn & 1) * 8;
            wait(query_empty + (turn & 1) * 8, (turn >> 1 & 1) ^ 1);
            if (lane == 0) {                         // an arrival with copies would not tell of this store
                works[turn & 1] = w;
                if (w.query >= w.count) works[turn & 1].tiles = 0;
                arrive(bar);
            }
            if (w.query >= w.count) {
                arrive(bar);
                return;
            }
#if ROTATES
            rotation.bring(here, w, q, kv_heads);
            rotated = 0;
#else
#pragma unroll 4
            for (int i = 0; i < 16; ++i) {
                const int row = opaque(i * 8 + lane / 16), chunk = lane % 16, token = w.query + row / GROUP;
                const bool real = token < w.count && row < TOKENS * GROUP;
                const u16* at = q + ((i64)(w.first_row + token) * kv_heads * GROUP + w.head * GROUP + row % GROUP) * DIM + chunk * 8;
                const u32 to = here + row / 64 * Q_BYTES + place(row % 64, chunk, 64 * 128);
#if KV_FP8
                Words v = {{0, 0, 0, 0}};
                if (real) v = load_global((const u8*)at);
#pragma unroll
                for (int j = 0; j < 4; ++j) v.w[j] = operand(v.w[j]);
                store_shared(to, v);
#else
                copy_async(to, real ? (const void*)at : q, real);
#endif
            }
#if KV_FP8
            arrive(bar);
#else
            arrive_with_copies(bar);
#endif
#endif
        };
#if ROTATES
        auto rotate = [&](const Work& w, int turn, int pairs) {
            if (rotated == 0) asm volatile("cp.async.wait_group 0;" ::: "memory");
#pragma unroll 1
            for (; pairs > 0 && rotated < 4; --pairs)
                if (rotation(queries + (turn & 1) * 2 * Q_BYTES, w, rotated++); rotated == 4) arrive(query_full + (turn & 1) * 8);
        };
#else
        auto rotate = [](const Work&, int, int) {};
#endif
        auto place_of = [&](int item) { return Place{tile_seqs[item / kv_heads], tile_starts[item / kv_heads], item % kv_heads}; };
        auto find = [&](Place at) { return work_item(at, query_starts, lengths, window); };

        Work w = find(place_of(blockIdx.x)), next;   // `next` sets out beside the tiles of `w`; one that nothing was left for is the last
        offer(w, 0);
        for (int item = blockIdx.x + gridDim.x, turn = 0; w.query < w.count; item += gridDim.x, ++turn, w = next) {
            const bool more = item < items;
            const Place then = more ? place_of(item) : Place{};
            from.cache = kv + (i64)w.head * PAGE * DIM * ELEMENT, from.length = w.length;
            from.pages = page_table + (i64)(rows ? rows[w.seq] : w.seq) * max_pages;
            int before[PAGES], now[PAGES] = {};
            auto tile_of = [&](int tile, const int (&entries)[PAGES], i64 side) {
                Tile t;
                t.key = w.begin + (w.tiles - 1 - tile) * KEYS, t.side = side;
#pragma unroll
                for (int i = 0; i < PAGES; ++i) t.entries[i] = entries[i];
                return t;
            };
            auto find_pages = [&](int tile) {
#pragma unroll
                for (int i = 0; i < PAGES; ++i) before[i] = now[i];
                if (tile < w.tiles) from.find_pages(w.begin + (w.tiles - 1 - tile) * KEYS, now);
            };
            find_pages(0);
            send(even, odd, tile_of(0, now, 0));
            find_pages(1);
            if (turn == 0) rotate(w, turn, 4);
            for (int tile = 1; tile < w.tiles; ++tile) {
                send(odd, even, tile_of(tile, now, 0));
                send(even, odd, tile_of(tile - 1, before, value_offset));
                find_pages(tile + 1);
                if (tile == 1 && more) offer(next = find(then), turn + 1);
                else rotate(next, turn + 1, 1);
            }
            send(odd, even, tile_of(w.tiles - 1, before, value_offset));
            if (!more) break;
            if (w.tiles == 1) offer(next = find(then), turn + 1);
            rotate(next, turn + 1, 4);
        }
#if KV_FP8
        put(odd);
#endif
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 200;");
        const int half = group - 1, warp = lane / 32, g = lane % 32 / 4, c = lane % 4;
        u32 mine = 0;                                // this warpgroup's queries
        float s[64], o[64];
        u32 p[32];
        auto sync = [&]() { asm volatile("bar.sync %0, 128;" :: "r"(1 + half) : "memory"); };
        // Descriptors count 16 bytes: a step along a tile is an addition.
        auto scores = [&](u32 tile) {
            const u64 rows = descriptor(mine, 0), keys = descriptor(tile, 0);
            pin(s);
            begin_products();
#pragma unroll
            for (int k = 0; k < DIM / 16; ++k)
                multiply_shared(s, rows + (k / 4 * (64 * 128) + k % 4 * 32) / 16, keys + (k / 4 * HALF_BYTES + k % 4 * 32) / 16, k > 0);
            commit_products();
        };
        auto add_values = [&](u32 tile) {
            const u64 values = descriptor(tile, HALF_BYTES);
            pin(o);
            begin_products();
#pragma unroll
            for (int k = 0; k < KEYS / 16; ++k) multiply_register(o, p + 4 * k, values + k * 2048 / 16);
            commit_products();
        };
        auto release = [&](int slot) { if (lane % 32 == 0) arrive(empty + slot * 8); };
        auto pack_scores = [&]() {
#pragma unroll
            for (int i = 0; i < 32; ++i) p[i] = pack(s[2 * i], s[2 * i + 1]);
        };
        auto await = [&](int at) {
            wait(full + at % SLOTS * 8, at / SLOTS & 1);
            return ring + at % SLOTS * TILE_BYTES;
        };

        for (int item = blockIdx.x, turn = 0; item < items; item += gridDim.x, ++turn) {
            wait(query_full + (turn & 1) * 8, turn >> 1 & 1);
            const Work w = works[turn & 1];
            if (w.tiles == 0) break;
            mine = queries + (turn & 1) * 2 * Q_BYTES + half * Q_BYTES;
            int position[2];
#pragma unroll
            for (int r = 0; r < 2; ++r) position[r] = w.position + (half * 64 + warp * 16 + g + 8 * r) / GROUP;
            Softmax soft = {{NOTHING, NOTHING}, {0.f, 0.f}, {1.f, 1.f}};
#pragma unroll
            for (int i = 0; i < 64; ++i) o[i] = 0.f;
            const int last = w.position + TOKENS - 1;  // position of the last query
            auto key_of = [&](int tile) { return w.begin + (w.tiles - 1 - tile) * KEYS; };
            // Tiles with keys after the first query, and those with keys before the last one's window.
            auto masked = [&](int tile) { return key_of(tile) + KEYS - 1 > w.position || (window > 0 && key_of(tile) <= last - window); };
            // The next tile's scores and this one's values.
            auto advance = [&](int tile, auto mask) {
                const int key_step = step++, value_step = step++;
                const u32 keys = await(key_step), values = await(value_step);
                open_to_products();
                scores(keys);
                add_values(values);
                wait_products<1>();
                pin(s);
                release(key_step % SLOTS);
                soft.take<mask.value>(s, key_of(tile), c, position, window, score_scale);
                wait_products<0>();
                pin(o);
                release(value_step % SLOTS);
#pragma unroll
                for (int i = 0; i < 64; ++i) o[i] *= soft.decay[i >> 1 & 1];
                pack_scores();
            };

            const u32 first = await(step);
            open_to_products();
            scores(first);
            wait_products<0>();
            pin(s);
            release(step++ % SLOTS);
            soft.take<true>(s, key_of(0), c, position, window, score_scale);
            pack_scores();
            int tile = 1;
            for (; tile < w.tiles && masked(tile); ++tile) advance(tile, Is<true>());
            for (; tile < w.tiles && !masked(tile); ++tile) advance(tile, Is<false>());
            for (; tile < w.tiles; ++tile) advance(tile, Is<true>());
            const u32 final = await(step);
            open_to_products();
            add_values(final);
            wait_products<0>();
            pin(o);
            release(step++ % SLOTS);

            float out_scale = value_scale;
#if ROUNDS
            out_scale /= *rounding_scale;
#endif
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                soft.total[r] += __shfl_xor_sync(~0u, soft.total[r], 1);
                soft.total[r] += __shfl_xor_sync(~0u, soft.total[r], 2);
                soft.total[r] = wait.lost ? __int_as_float(0x7fffffff) : soft.total[r] > 0.f ? out_scale / soft.total[r] : 0.f;
            }
            // Through this warpgroup's part of the queries, which every warp has read by now, to whole rows.
            sync();
#pragma unroll
            for (int i = 0; i < 32; ++i) {
                const float lo = o[2 * i] * soft.total[i & 1], hi = o[2 * i + 1] * soft.total[i & 1];
                store_staged(mine, warp * 16 + g + 8 * (i & 1), i / 2 * 8 + 2 * c, lo, hi);
            }
            sync();
            for (int i = lane; i < 64 * OUT_CHUNKS; i += 128) {
                const int inside = i / OUT_CHUNKS, row = half * 64 + inside, chunk = i % OUT_CHUNKS, token = w.query + row / GROUP;
                if (token >= w.count || row >= TOKENS * GROUP) continue;
                const i64 head = (i64)(w.first_row + token) * kv_heads * GROUP + w.head * GROUP + row % GROUP;
                store_global(out + (head * OUT_CHUNKS + chunk) * 16, load_shared(mine + place(inside, chunk, 64 * 128)));
#if ROUNDS
                if (w.head == 0 && row % GROUP == 0 && chunk == 0) out_scales[w.first_row + token] = *rounding_scale;
#endif
            }
            __syncwarp();
            if (lane % 32 == 0) arrive(query_empty + (turn & 1) * 8);
        }
    }
}
