// Causal attention of prompts over their paged context, prefix and new tokens, for Hopper's warpgroup products (sm_90a).
//
// A persistent block takes 128 query rows at a time: consecutive tokens of one sequence with the GROUP heads of one KV head
// each. Four producer warps bring queries, an item ahead, and 128 keys or values at a time into a ring of shared memory, gathered
// page by page; two consumer warpgroups have 64 rows each and issue the next tile's scores before they take in this tile's
// values, so that one product runs while the softmax of another is computed (FlashAttention-3, arXiv:2407.08608).
//   scores (64 x 128) = Q . K^T     both from shared memory, 128-byte swizzle
//   out (64 x 128)   += P . V       P from registers: an accumulator's layout is a fragment's
// FP8 becomes fp16, which holds e4m3 exactly, on its way to shared memory. Tokens past a sequence's end are stored as zeros:
// stale slots may hold NaN, and 0 * NaN is not 0. Tiles go from the last keys to the first, masks first.
//
// ROTATES: q is the qkv product itself, [tokens][kv heads * (GROUP + 2)][128], whose keys and values the cache holds already. Queries
// land as they are; once the first keys are on their way, producers rotate them in place (and norm them first, where there are weights to).
//
// Defined at compile time: ROTATES (0, 1), GROUP (query heads per KV head), PAGE (multiple of 16), KV_FP8 (0, 1). Head dim 128.
// Cache: [2][pages][kv heads][PAGE][128]. q and out: [tokens][kv heads * GROUP][128] bf16. Dynamic shared memory: SHARED bytes.

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
__device__ __forceinline__ void store_global(u16* p, Words v) {
    asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" :: "l"(p), "r"(v.w[0]), "r"(v.w[1]), "r"(v.w[2]), "r"(v.w[3]) : "memory");
}
// 16 bytes, or zeros.
__device__ __forceinline__ void copy_async(u32 to, const void* from, bool real) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(real ? 16 : 0) : "memory");
}
// `x`, of which nothing is computed ahead and kept in registers.
__device__ __forceinline__ int recomputed(int x) { asm volatile("" : "+r"(x)); return x; }
// Where 16-byte chunk `chunk` (0-15) of row `row` lies in a tile of halves of `half` bytes.
__device__ __forceinline__ u32 place(int row, int chunk, u32 half) {
    return (chunk >> 3) * half + row * 128 + (((chunk & 7) ^ (row & 7)) << 4);
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

__device__ __forceinline__ Work work_item(int item, const int* query_starts, const int* lengths, const int* tile_seqs,
                                          const int* tile_starts, int kv_heads, int window) {
    Work w;
    w.seq = tile_seqs[item / kv_heads], w.head = item % kv_heads, w.query = tile_starts[item / kv_heads];
    w.first_row = query_starts[w.seq], w.count = query_starts[w.seq + 1] - w.first_row, w.length = lengths[w.seq];
    w.position = w.length - w.count + w.query;
    w.end = min(w.position + TOKENS, w.length);
    w.begin = window > 0 ? max(w.position - window + 1, 0) / KEYS * KEYS : 0;
    w.tiles = (w.end - w.begin + KEYS - 1) / KEYS;
    return w;
}

#if KV_FP8
__device__ __forceinline__ u32 widen(u32 pair) { u32 d; asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(d) : "h"((u16)pair)); return d; }
__device__ __forceinline__ Words widen_half(u32 a, u32 b) {
    Words v;
    v.w[0] = widen(a & 0xffff), v.w[1] = widen(a >> 16), v.w[2] = widen(b & 0xffff), v.w[3] = widen(b >> 16);
    return v;
}
#endif

struct Tile {
    int key, entries[PAGES];                         // its first token, and where its pages are
    i64 side;                                        // byte offset of the values
};

struct Producer {
    const u8* cache;                                 // of the KV head
    const int* pages;
    i64 page_bytes;
    int length, lane;                                // lane: 0-127

    static constexpr int CHUNKS = DIM * ELEMENT / 16, ROWS = 128 / CHUNKS, PASSES = KEYS / ROWS;

    // Address of the 16 bytes that pass `i` brings of the tile at `key`; null past the end.
    __device__ __forceinline__ const u8* source(int key, int i, const int (&entries)[PAGES]) const {
        const int row = i * ROWS + lane / CHUNKS, token = key + row;
        const int entry = PAGE >= KEYS ? entries[0] : entries[i * ROWS / PAGE];
        const int inside = PAGE >= KEYS ? token % PAGE : i * ROWS % PAGE + lane / CHUNKS;
        return token < length ? cache + entry * page_bytes + (inside * DIM * ELEMENT + lane % CHUNKS * 16) : nullptr;
    }
    __device__ __forceinline__ void find_pages(int key, int (&entries)[PAGES]) const {
#pragma unroll
        for (int i = 0; i < PAGES; ++i) entries[i] = key + i * PAGE < length ? pages[(key + i * PAGE) / PAGE] : 0;
    }
#if KV_FP8
    __device__ __forceinline__ void load(Words (&held)[PASSES], const Tile& t) const {
#pragma unroll
        for (int i = 0; i < PASSES; ++i) {
            const u8* from = source(t.key, i, t.entries);
            held[i].w[0] = held[i].w[1] = held[i].w[2] = held[i].w[3] = 0;
            if (from) held[i] = load_global(from + t.side);
        }
    }
    __device__ __forceinline__ void store(const Words (&held)[PASSES], u32 tile) const {
        const int odd = lane % CHUNKS / 4;           // lanes of the second half begin with their second chunk: no bank conflict
#pragma unroll
        for (int i = 0; i < PASSES; ++i) {
            const Words lo = widen_half(held[i].w[0], held[i].w[1]), hi = widen_half(held[i].w[2], held[i].w[3]);
            const int row = i * ROWS + lane / CHUNKS, chunk = lane % CHUNKS * 2;
            store_shared(tile + place(row, chunk + odd, HALF_BYTES), odd ? hi : lo);
            store_shared(tile + place(row, chunk + 1 - odd, HALF_BYTES), odd ? lo : hi);
        }
    }
#else
    __device__ __forceinline__ void copy(u32 tile, const Tile& t) const {
#pragma unroll
        for (int i = 0; i < PASSES; ++i) {
            const u8* from = source(t.key, i, t.entries);
            copy_async(tile + place(i * ROWS + lane / CHUNKS, lane % CHUNKS, HALF_BYTES), from ? from + t.side : cache, from != nullptr);
        }
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
        const int own = recomputed(lane);
#pragma unroll 2
        for (int i = 0; i < 8; ++i) {
            const int row = own / 8 * 8 + i, token = w.query + row / GROUP;
            const bool real = token < w.count && row < TOKENS * GROUP;
            const u16* at = qkv + ((i64)(w.first_row + token) * kv_heads * (GROUP + 2) + w.head * GROUP + row % GROUP) * DIM + own % 8 * 8;
            const u32 to = queries + row / 64 * Q_BYTES + place(row % 64, own % 8, 64 * 128);
            copy_async(to, real ? at : qkv, real);
            copy_async(to + 64 * 128, real ? at + 64 : qkv, real);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    // In place. Rows past the sequence are zeros at any angle.
    __device__ __forceinline__ void operator()(u32 queries, const Work& w) const {
        const int own = recomputed(lane), chunk = own % 8;
        Words weights[2];
        if (norm) weights[0] = load_global((const u8*)(norm + chunk * 8)), weights[1] = load_global((const u8*)(norm + chunk * 8 + 64));
        float4 cosines[2], sines[2];
        asm volatile("cp.async.wait_group 0;" ::: "memory");
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const int row = own / 8 * 8 + i;
            if (i == 0 || row % GROUP == 0) {        // the next token's
                const float4* angles = (const float4*)(table + (i64)min(w.position + row / GROUP, w.length - 1) * DIM + chunk * 8);
                cosines[0] = angles[0], cosines[1] = angles[1], sines[0] = angles[16], sines[1] = angles[17];
            }
            const u32 at = queries + row / 64 * Q_BYTES + place(row % 64, chunk, 64 * 128);
            Words a = load_shared(at), b = load_shared(at + 64 * 128);
            float inverse = 1.f;
            if (norm) {
                float sum = 0.f;
#pragma unroll
                for (int j = 0; j < 8; ++j) {
                    const float lo = half_of(a.w[j / 2], j % 2), hi = half_of(b.w[j / 2], j % 2);
                    sum += lo * lo + hi * hi;
                }
#pragma unroll
                for (int d = 1; d < 8; d <<= 1) sum += __shfl_xor_sync(~0u, sum, d);
                inverse = rsqrtf(sum / DIM + eps);
            }
            float first[8], second[8];
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                float lo = half_of(a.w[j / 2], j % 2), hi = half_of(b.w[j / 2], j % 2);
                if (norm) lo *= inverse * half_of(weights[0].w[j / 2], j % 2), hi *= inverse * half_of(weights[1].w[j / 2], j % 2);
                const float cosine = (&cosines[j / 4].x)[j % 4], sine = (&sines[j / 4].x)[j % 4];
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
#pragma unroll
            for (int i = 0; i < 64; ++i) {
                const int token = key + i / 4 * 8 + 2 * c + (i & 1), at = position[i >> 1 & 1];
                if (token > at || (window > 0 && token <= at - window)) s[i] = NOTHING;
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
paged_prefill(u16* __restrict__ out, const u16* __restrict__ q, const u8* __restrict__ kv, const int* __restrict__ page_table,
              const int* __restrict__ rows, const int* __restrict__ query_starts, const int* __restrict__ lengths,
              const int* __restrict__ tile_seqs, const int* __restrict__ tile_starts, i64 value_offset, int max_pages,
              int kv_heads, int items, int window, float score_scale, float value_scale
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
#if KV_FP8 || ROTATES
        asm volatile("setmaxnreg.dec.sync.aligned.u32 120;");
#else
        asm volatile("setmaxnreg.dec.sync.aligned.u32 104;");
#endif
        Producer from;
        from.lane = lane, from.page_bytes = (i64)kv_heads * PAGE * DIM * ELEMENT;
#if ROTATES
        const Rotation rotate = {table, q_norm, eps, lane};
#endif
#if KV_FP8
        Words even[Producer::PASSES], odd[Producer::PASSES];  // loads of the one are under way while the other is stored
        int pending = -1;                            // the step whose bytes are still in registers
        auto put = [&](const Words (&held)[Producer::PASSES]) {
            if (pending < 0) return;
            const int slot = pending % SLOTS;
            wait(empty + slot * 8, (pending / SLOTS & 1) ^ 1);
            from.store(held, ring + slot * TILE_BYTES);
            arrive(full + slot * 8);
            pending = -1;
        };
#endif
        for (int item = blockIdx.x, turn = 0; item < items; item += gridDim.x, ++turn) {
            const Work w = work_item(item, query_starts, lengths, tile_seqs, tile_starts, kv_heads, window);
            const u32 here = queries + (turn & 1) * 2 * Q_BYTES, query_bar = query_empty + (turn & 1) * 8;
            from.cache = kv + (i64)w.head * PAGE * DIM * ELEMENT, from.length = w.length;
            from.pages = page_table + (i64)(rows ? rows[w.seq] : w.seq) * max_pages;
#if KV_FP8
            put(odd);
#endif
            wait(query_bar, (turn >> 1 & 1) ^ 1);
            if (lane == 0) {                         // an arrival with copies would not tell of this store
                works[turn & 1] = w;
                if (w.query >= w.count) works[turn & 1].tiles = 0;
                arrive(query_full + (turn & 1) * 8);
            }
            if (w.query >= w.count) {                // tiles that nothing was left for come last: this block has no more
                arrive(query_full + (turn & 1) * 8);
                break;
            }
            // 128 rows of 16 chunks: a row is one token's one head, and rows past the sequence or the group are zeros.
#if ROTATES
            rotate.bring(here, w, q, kv_heads);
            auto rotate_queries = [&]() {
                rotate(here, w);
                arrive(query_full + (turn & 1) * 8);
            };
#else
#pragma unroll 8
            for (int i = 0; i < 16; ++i) {
                const int row = i * 8 + lane / 16, chunk = lane % 16, token = w.query + row / GROUP;
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
            arrive(query_full + (turn & 1) * 8);
#else
            arrive_with_copies(query_full + (turn & 1) * 8);
#endif
#endif
            int now[PAGES] = {}, before[PAGES] = {};
            // The i-th of an item: K0, K1, V0, K2, V1, ..., V of the last. In FP8 a loaded tile is stored one step later.
            auto bring = [&](int i) {
                const bool key_side = i == 0 || (i & 1 && i < 2 * w.tiles - 1);
                const int tile = key_side ? (i + 1) / 2 : i / 2 - (i & 1 ? 0 : 1);
                if (key_side) {
#pragma unroll
                    for (int p = 0; p < PAGES; ++p) before[p] = now[p];
                    from.find_pages(w.begin + (w.tiles - 1 - tile) * KEYS, now);
                }
                const bool newest = key_side || i == 2 * w.tiles - 1;
                Tile t;
                t.key = w.begin + (w.tiles - 1 - tile) * KEYS, t.side = key_side ? 0 : value_offset;
#pragma unroll
                for (int p = 0; p < PAGES; ++p) t.entries[p] = newest ? now[p] : before[p];
                return t;
            };
#if KV_FP8
            for (int i = 0; i < 2 * w.tiles; i += 2, step += 2) {
                from.load(even, bring(i));
                put(odd);
#if ROTATES
                if (i == 0) rotate_queries();
#endif
                pending = step;
                from.load(odd, bring(i + 1));
                put(even);
                pending = step + 1;
            }
#else
            for (int i = 0; i < 2 * w.tiles; ++i, ++step) {
                const int slot = step % SLOTS;
                const Tile t = bring(i);
                wait(empty + slot * 8, (step / SLOTS & 1) ^ 1);
                from.copy(ring + slot * TILE_BYTES, t);
                arrive_with_copies(full + slot * 8);
#if ROTATES
                if (i == 0) rotate_queries();
#endif
            }
#endif
        }
#if KV_FP8
        put(odd);
#endif
    } else {
#if KV_FP8 || ROTATES
        asm volatile("setmaxnreg.inc.sync.aligned.u32 192;");
#else
        asm volatile("setmaxnreg.inc.sync.aligned.u32 200;");
#endif
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

#pragma unroll
            for (int r = 0; r < 2; ++r) {
                soft.total[r] += __shfl_xor_sync(~0u, soft.total[r], 1);
                soft.total[r] += __shfl_xor_sync(~0u, soft.total[r], 2);
                soft.total[r] = wait.lost ? __int_as_float(0x7fffffff) : soft.total[r] > 0.f ? value_scale / soft.total[r] : 0.f;
            }
            // Through this warpgroup's part of the queries, which every warp has read by now, to whole rows.
            sync();
#pragma unroll
            for (int i = 0; i < 32; ++i) {
                const int row = warp * 16 + g + 8 * (i & 1);
                const u32 at = mine + place(row, i / 2, 64 * 128) + 4 * c;
                asm volatile("st.shared.u32 [%0], %1;" :: "r"(at), "r"(pack_bf16(o[2 * i] * soft.total[i & 1], o[2 * i + 1] * soft.total[i & 1])) : "memory");
            }
            sync();
            for (int i = lane; i < 64 * 16; i += 128) {
                const int row = half * 64 + i / 16, token = w.query + row / GROUP;
                if (token < w.count && row < TOKENS * GROUP)
                    store_global(out + ((i64)(w.first_row + token) * kv_heads * GROUP + w.head * GROUP + row % GROUP) * DIM + i % 16 * 8,
                                 load_shared(mine + place(i / 16, i % 16, 64 * 128)));
            }
            __syncwarp();
            if (lane % 32 == 0) arrive(query_empty + (turn & 1) * 8);
        }
    }
}
