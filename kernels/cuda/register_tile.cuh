// Products of f32 with register tiles: the rung of the ladder for arithmetic without tensor cores.
//
// A block of BM/TM x BN/TN threads computes a BM x BN tile of y; each thread keeps TM x TN sums in registers. Operands
// pass through shared memory in slices of BK terms, stored as [BK][BM + 4] and [BK][BN + 4], so that a thread reads
// its TM values of a and TN of b for one k by float4. For TM = TN = 8 that is 64 multiply-adds for 4 loads of 16
// bytes: 16 a load, where the shared tile of the rung below does 1 for 2 loads.
//
//   - Each operand is read from global memory BM / TM (BN / TN) times less often than by one thread a result:
//     128 x 128 tiles do 2 * 128 * 128 / (4 * (128 + 128)) = 32 FLOPs a byte read.
//   - While a slice is used, the next one travels from global memory to registers; it is written to the other of two
//     buffers, so that one barrier a slice suffices.
//   - A warp covers 4 x 8 threads: 8 neighbours read 8 neighbouring float4 of b (one wavefront, all 32 banks) and the
//     same float4 of a (a broadcast). Rows of 4 extra floats let the transposing stores of k-contiguous operands (16
//     rows x 2 quads of k a warp) hit 32 different banks too.

#pragma once

#include "gemm.cuh"

// One store of 16 bytes to shared memory; the compiler would at times make it four, with bank conflicts.
__device__ inline void store_shared(float* y, const Vector<float, 4>& v) {
    asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(static_cast<u32>(__cvta_generic_to_shared(y))),
                 "f"(v.at[0]), "f"(v.at[1]), "f"(v.at[2]), "f"(v.at[3])
                 : "memory");
}

// A slice [BK][ROWS] of one operand on its way to shared memory.
template <int ROWS, int BK, int THREADS, bool VECTOR, class Loader>
struct Slice {
    enum {
        QUADS = ROWS * BK / 4 / THREADS,  // of a thread
        LD = ROWS + 4,
        K = Loader::K_CONTIGUOUS,
        // Different places of a thread: rows, or (one by one) neighbouring columns.
        ROW_PLACES = ROWS * 2 / THREADS > 1 ? ROWS * 2 / THREADS : 1,
        PLACES = K ? ROW_PLACES : VECTOR ? 1 : 4,
    };
    static_assert(QUADS * THREADS * 4 == ROWS * BK, "every thread moves the same number of quads");

    typename Loader::Place places[PLACES];
    Vector<float, 4> quads[QUADS];

    // Quad q lies at row (q / 2) % ROWS, k 4 (q % 2) + 8 (q / (2 ROWS)): a warp reads whole sectors of 32 bytes.
    static __device__ u32 row_of(u32 q) { return q / 2 % ROWS; }
    static __device__ u32 k_of(u32 q) { return q % 2 * 4 + q / (2 * ROWS) * 8; }

    __device__ void find_places(const Loader& loader, u32 mn0) {
#pragma unroll
        for (int i = 0; i < PLACES; i++) {
            places[i] = loader.place(K ? mn0 + row_of(threadIdx.x + i * THREADS)
                                       : mn0 + threadIdx.x % (ROWS / 4) * 4 + i);
        }
    }

    // From global memory to registers: the terms from k0 on.
    __device__ void read(const Loader& loader, u32 k0) {
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            const u32 q = threadIdx.x + i * THREADS;
            if (K) {
                quads[i] = fetch<4, VECTOR>(loader, places + i % PLACES, k0 + k_of(q));
            } else {
                quads[i] = fetch<4, VECTOR>(loader, places, k0 + q / (ROWS / 4));
            }
        }
    }

    // From registers to shared memory.
    __device__ void write(float* slice) const {
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            const u32 q = threadIdx.x + i * THREADS;
            if (K) {
#pragma unroll
                for (int e = 0; e < 4; e++) slice[(k_of(q) + e) * LD + row_of(q)] = quads[i].at[e];
            } else {
                store_shared(slice + q / (ROWS / 4) * LD + q % (ROWS / 4) * 4, quads[i]);
            }
        }
    }
};

// N values of a row of a slice, in quads that lie SPREAD apart.
template <int N, int SPREAD>
__device__ inline void read_fragment(const float* row, float (&fragment)[N]) {
#pragma unroll
    for (int quad = 0; quad < N / 4; quad++) {
        const Vector<float, 4> v = load_vector<4>(row + quad * SPREAD);
#pragma unroll
        for (int e = 0; e < 4; e++) fragment[quad * 4 + e] = v.at[e];
    }
}

// Shared memory of a block: two slices of each operand.
template <int BM, int BN, int BK>
struct alignas(16) RegisterTileShared {
    float a[2][BK * (BM + 4)];
    float b[2][BK * (BN + 4)];
};

// One tile of y. blockDim = (BM / TM * BN / TN).
template <int BM, int BN, int BK, int TM, int TN, bool VECTOR, class A, class B, class Out>
__device__ void register_tile(const Gemm& g, const Block& block, const A& a, const B& b, const Out& out,
                              RegisterTileShared<BM, BN, BK>& shared) {
    enum { THREADS = BM / TM * (BN / TN), SPREAD_M = BM / (TM / 4), SPREAD_N = BN / (TN / 4) };
    // Position of this thread among the BM / TM x BN / TN threads; a warp is 4 x 8 of them.
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 column = warp % (BN / TN / 8) * 8 + lane % 8, row = warp / (BN / TN / 8) * 4 + lane / 8;

    Slice<BM, BK, THREADS, VECTOR, A> slice_a;
    Slice<BN, BK, THREADS, VECTOR, B> slice_b;
    slice_a.find_places(a, block.m0);
    slice_b.find_places(b, block.n0);
    float sums[TM][TN] = {};
    if (block.k_begin < block.k_end) {
        slice_a.read(a, block.k_begin);
        slice_b.read(b, block.k_begin);
        slice_a.write(shared.a[0]);
        slice_b.write(shared.b[0]);
        __syncthreads();
    }
    u32 now = 0;
#pragma unroll 1
    for (u32 k = block.k_begin; k < block.k_end; k += BK) {
        const bool more = k + BK < block.k_end;
        if (more) {
            slice_a.read(a, k + BK);
            slice_b.read(b, k + BK);
        }
#pragma unroll
        for (int term = 0; term < BK; term++) {
            float of_a[TM], of_b[TN];
            read_fragment<TM, SPREAD_M>(shared.a[now] + term * (BM + 4) + row * 4, of_a);
            read_fragment<TN, SPREAD_N>(shared.b[now] + term * (BN + 4) + column * 4, of_b);
#pragma unroll
            for (int i = 0; i < TM; i++) {
#pragma unroll
                for (int j = 0; j < TN; j++) sums[i][j] = fmaf(of_a[i], of_b[j], sums[i][j]);
            }
        }
        now ^= 1;
        if (more) {
            slice_a.write(shared.a[now]);
            slice_b.write(shared.b[now]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < TM; i++) {
        const u32 m = block.m0 + i / 4 * SPREAD_M + row * 4 + i % 4;
#pragma unroll
        for (int quad = 0; quad < TN / 4; quad++) {
            const float v[4] = {sums[i][quad * 4], sums[i][quad * 4 + 1], sums[i][quad * 4 + 2], sums[i][quad * 4 + 3]};
            out.template write<4>(g, m, block.n0 + quad * SPREAD_N + column * 4, v);
        }
    }
}
