// What every product of matrices shares, matmul or convolution: y[m, n] = Σ_k a[m, k] b[k, n].
//
//   Divisor    division by a number that the host knows, in three instructions
//   Block      which tile of which product a block computes, and over which k
//   loaders    where element (mn, k) of an operand lies in global memory, and whether it is one
//   Output     bias, residual, activation, rounding and the store of the results
//
// A loader splits the address into what depends on the row (or column) alone, found once a thread (`place`), and what
// depends on k (`step`), found once a tile; `at` joins the two. So an implicit GEMM decodes its pixels once, and its
// taps once a tile. `K_CONTIGUOUS` says along which axis neighbours in memory lie; a loader reads V of them at once
// where the host has seen that the length of that axis, and so every row's address, is a multiple of V.

#pragma once

#include "args.cuh"
#include "half.cuh"

// n / divisor for n < 2^31, as n magic >> shift with magic = ceil(2^shift / divisor), shift = 31 + ceil(log2 divisor)
// (Granlund and Montgomery 1994, §4). The host's side is `divisor` in kernels/src/cuda/gemm.rs.
struct Divisor {
    u32 divisor;
    u32 magic;
    u32 shift;

    __device__ u32 quotient(u32 n) const { return static_cast<u32>(static_cast<u64>(n) * magic >> shift); }
};

// Sizes of the products of a launch. gridDim = (tiles of y, splits of k, products). The host's side is `Gemm::params`
// in gemm.rs.
struct Gemm {
    u32 m, n, k;
    u32 splits;    // parts of k, each with results of its own in `partials`
    u32 split_k;   // terms of a part
    u32 vector_y;  // rows of y can be written in vectors
};

// What a block computes: rows from m0 and columns from n0 of y, the terms [k_begin, k_end).
struct Block {
    u32 m0, n0, k_begin, k_end;

    // Tiles are numbered down the columns of bands of 8 tile rows: the blocks that run at one time read few different
    // rows of a and columns of b, which then come from the second-level cache.
    template <int BM, int BN>
    static __device__ Block of(const Gemm& g) {
        enum : u32 { BAND = 8 };
        const u32 tiles_m = (g.m + BM - 1) / BM, tiles_n = (g.n + BN - 1) / BN;
        const u32 band = blockIdx.x / (BAND * tiles_n), in_band = blockIdx.x - band * (BAND * tiles_n);
        const u32 height = min(tiles_m - band * BAND, static_cast<u32>(BAND));
        const u32 column = in_band / height, row = band * BAND + in_band - column * height;
        const u32 k_begin = blockIdx.y * g.split_k;
        return {row * BM, column * BN, k_begin, min(g.k, k_begin + g.split_k)};
    }
};

// Where an element lies; what is not `inside` counts as zero, and its address means nothing.
template <class T>
struct Address {
    const T* x;
    bool inside;
};

// A matrix with k contiguous: element (mn, k) is x[mn * ld + k].
template <class T>
struct RowsOfK {
    typedef T Element;
    enum { K_CONTIGUOUS = 1 };
    const T* x;
    u64 ld;
    u32 extent, k_end;

    struct Place {
        const T* row;
        u32 k_end;  // 0 beyond the last row
    };
    typedef u32 Step;
    __device__ Place place(u32 mn) const { return {x + mn * ld, mn < extent ? k_end : 0}; }
    __device__ Step step(u32 k) const { return k; }
    __device__ Address<T> at(const Place& p, Step k) const { return {p.row + k, k < p.k_end}; }
};

// A matrix with mn contiguous: element (mn, k) is x[k * ld + mn].
template <class T>
struct ColumnsOfK {
    typedef T Element;
    enum { K_CONTIGUOUS = 0 };
    const T* x;
    u64 ld;
    u32 extent, k_end;

    typedef u32 Place;
    struct Step {
        const T* row;
        u32 extent;  // 0 beyond the last k
    };
    __device__ Place place(u32 mn) const { return mn; }
    __device__ Step step(u32 k) const { return {x + k * ld, k < k_end ? extent : 0}; }
    __device__ Address<T> at(Place mn, const Step& s) const { return {s.row + mn, mn < s.extent}; }
};

// A matrix of any strides, read one element at a time.
template <class T>
struct Strided {
    typedef T Element;
    enum { K_CONTIGUOUS = 1 };
    const T* x;
    u64 stride_mn, stride_k;
    u32 extent, k_end;

    struct Place {
        const T* row;
        u32 k_end;  // 0 beyond the last row
    };
    typedef u32 Step;
    __device__ Place place(u32 mn) const { return {x + mn * stride_mn, mn < extent ? k_end : 0}; }
    __device__ Step step(u32 k) const { return k; }
    __device__ Address<T> at(const Place& p, Step k) const { return {p.row + k * stride_k, k < p.k_end}; }
};

// Elements of a buffer that the kernel only reads. In words of its own because the compiler cannot always tell that an
// address which may be null lies in global memory, nor that y is another buffer: it would read a bias once a row.
__device__ inline f32 load_global(const f32* x) {
    f32 v;
    asm("ld.global.nc.f32 %0, [%1];" : "=f"(v) : "l"(__cvta_generic_to_global(x)));
    return v;
}

template <class T>
__device__ inline T load_global(const T* x) {
    T v;
    asm("ld.global.nc.u16 %0, [%1];" : "=h"(v.bits) : "l"(__cvta_generic_to_global(x)));
    return v;
}

__device__ inline Vector<f32, 4> load_global_vector(const f32* x) {
    Vector<f32, 4> v;
    asm("ld.global.nc.v4.f32 {%0,%1,%2,%3}, [%4];"
        : "=f"(v.at[0]), "=f"(v.at[1]), "=f"(v.at[2]), "=f"(v.at[3])
        : "l"(__cvta_generic_to_global(x)));
    return v;
}

template <class T>
__device__ inline Vector<T, 8> load_global_vector(const T* x) {
    u32 words[4];
    asm("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];"
        : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
        : "l"(__cvta_generic_to_global(x)));
    Vector<T, 8> v;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v.at[2 * i].bits = static_cast<unsigned short>(words[i]);
        v.at[2 * i + 1].bits = static_cast<unsigned short>(words[i] >> 16);
    }
    return v;
}

template <class T>
__device__ inline T value_or_zero(const Address<T>& at) {
    return at.inside ? load_global(at.x) : T{};
}

// V neighbours of an operand, along k or along mn as the loader says, from (place, k) on. Without VECTOR they are read
// one by one, and mn-contiguous loaders need a place for each. (With it only f32 comes this way: 16 bits go by
// cp.async.)
template <int V, bool VECTOR, class Loader, class Place>
__device__ inline Vector<typename Loader::Element, V> fetch(const Loader& loader, const Place* places, u32 k) {
    typedef typename Loader::Element T;
    Vector<T, V> v = {};
    if constexpr (VECTOR) {
        const Address<T> at = loader.at(places[0], loader.step(k));
        if (at.inside) v = load_global_vector(at.x);
    } else if constexpr (Loader::K_CONTIGUOUS) {
#pragma unroll
        for (int e = 0; e < V; e++) v.at[e] = value_or_zero(loader.at(places[0], loader.step(k + e)));
    } else {
        const auto step = loader.step(k);
#pragma unroll
        for (int e = 0; e < V; e++) v.at[e] = value_or_zero(loader.at(places[e], step));
    }
    return v;
}

// Rows of y one after the other: y is [products, m, n].
struct PlainRows {
    u64 start, stride;
    __device__ u64 at(u32 m) const { return start + m * stride; }
};

// Where and how results are stored: y = activation(sum + bias[n] + residual), or the sum itself as f32 to `partials`
// [splits, products, m, n] when k is split.
template <class T, class Rows>
struct Output {
    T* y;
    float* partials;  // null when k is not split
    const T* bias;    // [n] or null
    const T* residual;  // like y, or null
    u32 relu;
    Rows rows;

    // N results from (m, n) on, of which those beyond the edges are left out.
    template <int N>
    __device__ void write(const Gemm& g, u32 m, u32 n, const float (&sums)[N]) const {
        if (m >= g.m || n >= g.n) return;
        if (partials) {
            const u64 product = static_cast<u64>(blockIdx.y) * gridDim.z + blockIdx.z;
            store_row<N>(g, n, partials + (product * g.m + m) * g.n + n, sums);
            return;
        }
        const u64 at = rows.at(m) + n;
        float v[N];
#pragma unroll
        for (int e = 0; e < N; e++) v[e] = sums[e];
        if (bias) add_row<N>(g, n, bias + n, v);
        if (residual) add_row<N>(g, n, residual + at, v);
        if (relu) {
#pragma unroll
            for (int e = 0; e < N; e++) v[e] = v[e] <= 0.0f ? 0.0f : v[e];  // NaN stays
        }
        store_row<N>(g, n, y + at, v);
    }

  private:
    template <int N>
    static __device__ void add_row(const Gemm& g, u32 n, const T* x, float (&v)[N]) {
        if (g.vector_y) {
            enum { WIDTH = 16 / sizeof(T) };
            static_assert(N % WIDTH == 0, "whole vectors");
#pragma unroll
            for (int from = 0; from < N; from += WIDTH) {
                const Vector<T, WIDTH> row = load_global_vector(x + from);
#pragma unroll
                for (int e = 0; e < WIDTH; e++) v[from + e] += load(row.at[e]);
            }
        } else {
#pragma unroll
            for (int e = 0; e < N; e++) v[e] += n + e < g.n ? load(load_global(x + e)) : 0.0f;
        }
    }

    template <int N, class To>
    static __device__ void store_row(const Gemm& g, u32 n, To* y, const float (&v)[N]) {
        if (g.vector_y) {
            enum { WIDTH = 16 / sizeof(To) < N ? 16 / sizeof(To) : N };  // at most 16 bytes a store
#pragma unroll
            for (int from = 0; from < N; from += WIDTH) {
                Vector<To, WIDTH> row;
#pragma unroll
                for (int e = 0; e < WIDTH; e++) row.at[e] = store<To>(v[from + e]);
                store_vector<WIDTH>(y + from, row);
            }
        } else {
#pragma unroll
            for (int e = 0; e < N; e++) {
                if (n + e < g.n) y[e] = store<To>(v[e]);
            }
        }
    }
};

// y[i] = Σ_split partials[split, i] + bias[i % n], in the order of the splits: the second stage of a split sum.
template <class T>
__device__ void sum_splits(u64 count, u32 splits, u32 n, const float* __restrict__ partials, const T* __restrict__ bias,
                           T* __restrict__ y) {
    const u64 i = thread_index();
    if (i >= count) return;
    float sum = 0.0f;
#pragma unroll 4
    for (u32 split = 0; split < splits; split++) sum += partials[split * count + i];
    if (bias) sum += load(bias[i % n]);
    y[i] = store<T>(sum);
}
