// Products on tensor cores: f16, bf16 and (by name only) tf32 operands, f32 sums.
//
// A block of WARPS_M x WARPS_N warps computes a BM x BN tile of y; a warp does 32 or 64 x 32 of it by mma.sync m16n8k16
// (m16n8k8 for tf32), 16 x 8 results an instruction. Operands pass through shared memory in slices of 64 bytes of k
// (BK = 32 numbers of 16 bits), in a ring of STAGES slices:
//
//   cp.async   copies 16 bytes from global to shared memory without registers; STAGES - 1 slices are on their way while
//              one is used, so that the latency of global memory is hidden by the arithmetic of two slices
//   ldmatrix   hands four 8 x 8 matrices to a warp in the layout that mma wants, transposed where the operand lies
//              with mn contiguous: no operand is ever transposed in memory
//   swizzle    chunk c of row r (16 bytes) lies at c ^ f(r): the 8 rows of one 8 x 8 matrix, and the 8 chunks that 8
//              threads of a cp.async write, lie in 8 different groups of 4 banks, so neither has a conflict
//
// Why faster than a register tile: an mma of a warp does 4096 FLOPs (16 bits) where its fma does 64, so per slice of
// 128 x 128 x 32 one of 8 warps issues 32 mma and 12 ldmatrix instead of 2 * 128 * 128 * 32 / 8 / 64 = 2048 fma and 128
// loads of 16 bytes.
// 2 * 128 * 128 / (2 * (128 + 128)) = 64 FLOPs a byte read from global memory.
//
// Results go through shared memory once more, one row of warps at a time: the fragments of an mma are 2 neighbours a
// thread, and stores (and the residual's loads) want 16 bytes a thread.

#pragma once

#include "gemm.cuh"

// f32 rounded to 10 bits of fraction: the number that a tensor core takes for it.
struct tf32 {
    float bits;
};

__device__ inline tf32 to_tf32(float x) {
    u32 y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return {__int_as_float(static_cast<int>(y))};
}

// sums += a b for one 16 x 8 tile: a is row-major, b column-major, spread over the warp as the PTX ISA draws it.
template <class T>
__device__ void mma(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]);

#define MMA(T, SHAPE, TYPES)                                                                                         \
    template <>                                                                                                      \
    __device__ inline void mma<T>(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]) {                          \
        asm("mma.sync.aligned." SHAPE ".row.col.f32." TYPES ".f32 "                                                  \
            "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                                  \
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                                             \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                     \
    }
MMA(f16, "m16n8k16", "f16.f16")
MMA(bf16, "m16n8k16", "bf16.bf16")
MMA(f32, "m16n8k8", "tf32.tf32")

// Four 8 x 8 matrices of 16-bit numbers (8 x 4 of 32 bits): lane l gives the address of row l % 8 of matrix l / 8.
template <bool TRANSPOSED>
__device__ inline void load_matrices(u32 address, u32& m0, u32& m1, u32& m2, u32& m3) {
    if (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(m0), "=r"(m1), "=r"(m2), "=r"(m3)
                     : "r"(address)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(m0), "=r"(m1), "=r"(m2), "=r"(m3)
                     : "r"(address)
                     : "memory");
    }
}

// 16 bytes from global to shared memory, later; zeros where `bytes` is 0, and then nothing is read.
__device__ inline void copy_async(u32 shared, const void* global, u32 bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(__cvta_generic_to_global(global)),
                 "r"(bytes)
                 : "memory");
}

__device__ inline void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until all but the latest N groups of this thread's copies are done.
template <int N>
__device__ inline void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// The same number, of which the compiler does not know where it comes from: it stays in its register. The lanes'
// addresses would otherwise be computed anew from threadIdx in every slice, half of all instructions.
__device__ inline u32 kept(u32 x) {
    asm volatile("" : "+r"(x));
    return x;
}

__device__ inline u32 shared_address(const void* x) {
    return static_cast<u32>(__cvta_generic_to_shared(x));
}

// What shared memory holds of an operand: f32 is rounded to tf32 on the way.
template <class T>
__device__ inline T for_tensor_core(T x) {
    return x;
}
__device__ inline f32 for_tensor_core(f32 x) {
    return to_tf32(x).bits;
}

// A slice of one operand in shared memory, [ROWS][64 bytes of k] or, mn-contiguous, [BK][ROWS], in chunks of 16 bytes.
// VECTOR: by cp.async; otherwise element by element through registers, read before and written after the arithmetic on
// an earlier slice.
template <class T, int ROWS, int THREADS, bool VECTOR, class Loader>
struct RingSlice {
    enum {
        V = 16 / sizeof(T),           // numbers of a chunk
        BK = 64 / sizeof(T),          // terms of a slice
        K = Loader::K_CONTIGUOUS,
        WIDTH = K ? 4 : ROWS / V,     // chunks of a row of shared memory
        CHUNKS = ROWS * 4 / THREADS,  // of a thread
        PITCH = THREADS / WIDTH,      // rows of shared memory between the chunks of a thread
        PLACES = K ? CHUNKS : VECTOR ? 1 : V,
        BYTES = ROWS * 64,
    };
    static_assert(CHUNKS * THREADS == ROWS * 4, "every thread moves the same number of chunks");
    static_assert(PITCH % 8 == 0, "all chunks of a thread are swizzled alike");

    typename Loader::Place places[PLACES];
    Vector<T, V> chunks[VECTOR ? 1 : CHUNKS];
    u32 first_chunk;  // byte of this thread's first chunk
    u32 first_piece;  // byte of this lane's row of its warp's first piece

    // Byte of a chunk. Rows of 64 bytes make a round through the 32 banks in pairs, longer ones alone.
    static __device__ u32 byte_of(u32 row, u32 chunk) {
        const u32 mixed = WIDTH == 4 ? chunk ^ row / 2 % 4 : chunk ^ row % 8;
        return (row * WIDTH + mixed) * 16;
    }

    // `mn0` is the block's first row of the operand, `mn_warp` the warp's first of those. A piece is 16 x (2 chunks of
    // k), four 8 x 8 matrices in the order mn, k: FIRST_MN says which of the two alternates first.
    template <bool FIRST_MN>
    __device__ void find_places(const Loader& loader, u32 mn0, u32 mn_warp) {
#pragma unroll
        for (int i = 0; i < PLACES; i++) {
            places[i] = loader.place(mn0 + (K ? threadIdx.x / WIDTH + i * PITCH : threadIdx.x % WIDTH * V + i));
        }
        first_chunk = kept(byte_of(threadIdx.x / WIDTH, threadIdx.x % WIDTH));
        const u32 lane = threadIdx.x % 32;
        const u32 of_mn = FIRST_MN ? lane / 8 % 2 : lane / 16, of_k = FIRST_MN ? lane / 16 : lane / 8 % 2;
        first_piece = kept(K ? byte_of(mn_warp + of_mn * 8 + lane % 8, of_k)
                             : byte_of(of_k * 8 + lane % 8, mn_warp / V + of_mn));
    }

    // Starts on the terms from k0 on.
    __device__ void read(const Loader& loader, u32 k0, u32 slice) {
#pragma unroll
        for (int i = 0; i < CHUNKS; i++) {
            const u32 k = k0 + (K ? threadIdx.x % WIDTH * V : threadIdx.x / WIDTH + i * PITCH);
            const auto* place = places + (K ? i : 0);
            if constexpr (VECTOR) {
                const Address<T> at = loader.at(*place, loader.step(k));
                copy_async(slice + first_chunk + i * PITCH * WIDTH * 16, at.x, at.inside ? 16 : 0);
            } else {
                chunks[i] = fetch<V, false>(loader, place, k);
            }
        }
    }

    __device__ void write(unsigned char* slice) const {
        if constexpr (!VECTOR) {
#pragma unroll
            for (int i = 0; i < CHUNKS; i++) {
                Vector<T, V> v = chunks[i];
#pragma unroll
                for (int e = 0; e < V; e++) v.at[e] = for_tensor_core(v.at[e]);
                store_vector<V>(reinterpret_cast<T*>(slice + first_chunk + i * PITCH * WIDTH * 16), v);
            }
        }
    }

    // Address of this lane's row of the warp's i-th piece along mn, of the terms in the chunks 2 step and 2 step + 1.
    // The bits of a chunk that step (or i) changes are not those that come from the lane, so the swizzle's exclusive
    // or can be done with the first piece's byte.
    __device__ u32 piece(u32 slice, u32 i, u32 step) const {
        const u32 first = slice + first_piece;
        return K ? (first ^ step * 32) + i * 1024 : (first ^ i * 32) + step * (2 * V * WIDTH * 16);
    }
};

// Sizes of a kernel.
template <class T, int BM_, int BN_, int WARPS_M_, int WARPS_N_, int STAGES_>
struct TensorCoreTile {
    enum {
        BM = BM_,
        BN = BN_,
        WARPS_M = WARPS_M_,
        WARPS_N = WARPS_N_,
        STAGES = STAGES_,
        THREADS = WARPS_M * WARPS_N * 32,
        WM = BM / WARPS_M,  // rows and columns of a warp
        WN = BN / WARPS_N,
        MS = WM / 16,  // mma tiles of a warp
        NS = WN / 8,
        BK = 64 / sizeof(T),
        STAGE_BYTES = (BM + BN) * 64,
        // f32 results of a row of warps; rows of 8 extra floats put the 4 rows that half a warp writes into different
        // banks.
        RESULT_LD = BN + 8,
        RESULT_BYTES = WM * RESULT_LD * 4,
        RING_BYTES = STAGES * STAGE_BYTES,
        BYTES = RING_BYTES > RESULT_BYTES ? RING_BYTES : RESULT_BYTES,
    };
};

// All mma of a warp on one slice.
template <class T, class Tile, class SliceA, class SliceB>
__device__ void multiply_slice(float (&sums)[Tile::MS][Tile::NS][4], const SliceA& slice_a, const SliceB& slice_b,
                               u32 bytes_a, u32 bytes_b) {
#pragma unroll
    for (u32 step = 0; step < 2; step++) {
        u32 a[Tile::MS][4], b[Tile::NS][2];
#pragma unroll
        for (int i = 0; i < Tile::MS; i++) {
            load_matrices<!SliceA::K>(slice_a.piece(bytes_a, i, step), a[i][0], a[i][1], a[i][2], a[i][3]);
        }
#pragma unroll
        for (int j = 0; j < Tile::NS; j += 2) {
            load_matrices<!SliceB::K>(slice_b.piece(bytes_b, j / 2, step), b[j][0], b[j][1], b[j + 1][0], b[j + 1][1]);
        }
#pragma unroll
        for (int i = 0; i < Tile::MS; i++) {
#pragma unroll
            for (int j = 0; j < Tile::NS; j++) mma<T>(sums[i][j], a[i], b[j]);
        }
    }
}

// Writes the results of a block, one row of warps at a time: fragments to shared memory, rows of it to y.
template <class Tile, class Out>
__device__ void write_results(const Gemm& g, const Block& block, const float (&sums)[Tile::MS][Tile::NS][4],
                              const Out& out, float* results) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 warp_m = warp / Tile::WARPS_N, warp_n = warp % Tile::WARPS_N;
#pragma unroll 1
    for (u32 row_of_warps = 0; row_of_warps < Tile::WARPS_M; row_of_warps++) {
        __syncthreads();  // the ring, or the previous results, are not needed any more
        if (warp_m == row_of_warps) {
#pragma unroll
            for (int i = 0; i < Tile::MS; i++) {
#pragma unroll
                for (int j = 0; j < Tile::NS; j++) {
                    const u32 column = warp_n * Tile::WN + j * 8 + lane % 4 * 2;
                    float* at = results + (i * 16 + lane / 4) * Tile::RESULT_LD + column;
                    store_vector<2>(at, Vector<float, 2>{{sums[i][j][0], sums[i][j][1]}});
                    store_vector<2>(at + 8 * Tile::RESULT_LD, Vector<float, 2>{{sums[i][j][2], sums[i][j][3]}});
                }
            }
        }
        __syncthreads();
        // 8 neighbours a thread. Threads 4 to 7 of 8 read their second float4 first: 8 different groups of banks at a
        // time.
        const u32 swap = threadIdx.x / 4 % 2;
#pragma unroll 1
        for (u32 at = threadIdx.x; at < Tile::WM * Tile::BN / 8; at += Tile::THREADS) {
            const u32 row = at / (Tile::BN / 8), column = at % (Tile::BN / 8) * 8;
            const float* of = results + row * Tile::RESULT_LD + column;
            const Vector<float, 4> one = load_vector<4>(of + swap * 4), other = load_vector<4>(of + (swap ^ 1) * 4);
            float v[8];
#pragma unroll
            for (int e = 0; e < 4; e++) {
                v[e] = swap ? other.at[e] : one.at[e];
                v[4 + e] = swap ? one.at[e] : other.at[e];
            }
            out.template write<8>(g, block.m0 + row_of_warps * Tile::WM + row, block.n0 + column, v);
        }
    }
}

// One tile of y. blockDim = (32 WARPS_M WARPS_N); `shared` has Tile::BYTES bytes.
template <class T, class Tile, bool VECTOR, class A, class B, class Out>
__device__ void tensor_core(const Gemm& g, const Block& block, const A& a, const B& b, const Out& out,
                            unsigned char* shared) {
    typedef RingSlice<T, Tile::BM, Tile::THREADS, VECTOR, A> SliceA;
    typedef RingSlice<T, Tile::BN, Tile::THREADS, VECTOR, B> SliceB;
    enum { STAGES = Tile::STAGES };
    const u32 warp = threadIdx.x / 32;
    const u32 base = shared_address(shared);

    SliceA slice_a;
    SliceB slice_b;
    slice_a.template find_places<true>(a, block.m0, warp / Tile::WARPS_N * Tile::WM);
    slice_b.template find_places<false>(b, block.n0, warp % Tile::WARPS_N * Tile::WN);
    float sums[Tile::MS][Tile::NS][4] = {};

    const auto read = [&](u32 k, u32 stage) {
        if (k < block.k_end) {
            slice_a.read(a, k, base + stage * Tile::STAGE_BYTES);
            slice_b.read(b, k, base + stage * Tile::STAGE_BYTES + SliceA::BYTES);
        }
        commit_copies();  // empty groups too: the count of groups then tells slices
    };
    const auto write = [&](u32 k, u32 stage) {
        if (k < block.k_end) {
            slice_a.write(shared + stage * Tile::STAGE_BYTES);
            slice_b.write(shared + stage * Tile::STAGE_BYTES + SliceA::BYTES);
        }
    };

#pragma unroll 1
    for (u32 stage = 0; stage < STAGES - 1; stage++) {
        read(block.k_begin + stage * Tile::BK, stage);
        write(block.k_begin + stage * Tile::BK, stage);
    }
    u32 stage = 0, ahead = STAGES - 1;  // the slice in use, and the one that is filled meanwhile
#pragma unroll 1
    for (u32 k = block.k_begin; k < block.k_end; k += Tile::BK) {
        wait_copies<STAGES - 2>();
        __syncthreads();  // everyone's copies of this slice are done, and nobody uses the one to be filled any more
        const u32 next = k + (STAGES - 1) * Tile::BK;
        read(next, ahead);
        const u32 slice = base + stage * Tile::STAGE_BYTES;
        multiply_slice<T, Tile>(sums, slice_a, slice_b, slice, slice + SliceA::BYTES);
        write(next, ahead);
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        ahead = ahead + 1 == STAGES ? 0 : ahead + 1;
    }
    wait_copies<0>();
    write_results<Tile>(g, block, sums, out, reinterpret_cast<float*>(shared));
}
