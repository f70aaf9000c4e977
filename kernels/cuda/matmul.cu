// Matrix products.  y[i] = op(a[i]) op(b[i]) + bias: op(a) is [m, k], op(b) is [k, n], y is [products, m, n], bias is
// [n], op an optional transposition. Sums are f32 whatever the dtype.
//
// The ladder, slowest first; docs/cuda-matmul.md counts what each rung saves:
//
//   matmul_forward_<dtype>_naive                          one thread a result, 2 loads a multiply-add (read this first)
//   matmul_forward_<dtype>_shared_tile                    32 x 32 tiles in shared memory: 32 times fewer global loads
//   matmul_forward_f32_register_tile_<tile>_<layouts>     8 x 8 sums a thread: 32 times fewer shared loads
//   matmul_forward_<16 bits>_tensor_core_<tile>_<layouts> mma.sync, 4096 FLOPs an instruction
//   matmul_forward_<16 bits>_tensor_core_64x64_strided    the same, read one by one: sizes that are no multiple of 8
//   matmul_forward_tf32_tensor_core_64x64_strided         f32 rounded to 10 bits of fraction: only by name
//   matmul_forward_<dtype>_split_sum                      adds the parts of a split k, in order
//
// <layouts>: k or m for a, k or n for b, whichever is contiguous; `k` twice is a linear layer's forward pass.

#include "register_tile.cuh"
#include "tensor_core.cuh"

// Element (mn, k) of operand `x` of product i is x[i * product + mn * mn_stride + k * k_stride].
// `Operand` in kernels/src/cuda/matmul.rs has the same layout.
struct Operand {
    u64 product, mn, k;
};

// blockDim = (32, 8): a warp makes 32 neighbours of a row of y.
template <class T>
__device__ void naive(const Gemm& g, const Operand& of_a, const Operand& of_b, const T* __restrict__ a,
                      const T* __restrict__ b, const T* __restrict__ bias, T* __restrict__ y) {
    const u32 tiles_n = (g.n + 31) / 32;
    const u32 n = blockIdx.x % tiles_n * 32 + threadIdx.x;
    const u32 m = blockIdx.x / tiles_n * 8 + threadIdx.y;
    if (m >= g.m || n >= g.n) return;
    const T* row = a + blockIdx.z * of_a.product + m * of_a.mn;
    const T* column = b + blockIdx.z * of_b.product + n * of_b.mn;
    float sum = 0.0f;
    for (u32 k = 0; k < g.k; k++) sum = fmaf(load(row[k * of_a.k]), load(column[k * of_b.k]), sum);
    if (bias) sum += load(bias[n]);
    y[(static_cast<u64>(blockIdx.z) * g.m + m) * g.n + n] = store<T>(sum);
}

// blockDim = (32, 32), one result a thread. Slices are [32][32] with rows of 33 floats: threads that read along a
// column of an operand's transpose write 32 different banks.
template <class T>
__device__ void shared_tile(const Gemm& g, const Operand& of_a, const Operand& of_b, const T* __restrict__ a,
                            const T* __restrict__ b, const T* __restrict__ bias, T* __restrict__ y) {
    __shared__ float slice_a[32][33], slice_b[32][33];  // [m][k], [k][n]
    const u32 tiles_n = (g.n + 31) / 32;
    const u32 m0 = blockIdx.x / tiles_n * 32, n0 = blockIdx.x % tiles_n * 32;
    const u32 x = threadIdx.x, row = threadIdx.y;
    a += blockIdx.z * of_a.product;
    b += blockIdx.z * of_b.product;
    const bool a_by_k = of_a.k == 1, b_by_k = of_b.k == 1;  // neighbouring threads read neighbours in memory
    float sum = 0.0f;
    for (u32 k0 = 0; k0 < g.k; k0 += 32) {
        const u32 ma = a_by_k ? row : x, ka = a_by_k ? x : row;
        const u32 nb = b_by_k ? row : x, kb = b_by_k ? x : row;
        const bool in_a = m0 + ma < g.m && k0 + ka < g.k, in_b = n0 + nb < g.n && k0 + kb < g.k;
        slice_a[ma][ka] = in_a ? load(a[(m0 + ma) * of_a.mn + (k0 + ka) * of_a.k]) : 0.0f;
        slice_b[kb][nb] = in_b ? load(b[(n0 + nb) * of_b.mn + (k0 + kb) * of_b.k]) : 0.0f;
        __syncthreads();
#pragma unroll 8
        for (int k = 0; k < 32; k++) sum = fmaf(slice_a[row][k], slice_b[k][x], sum);
        __syncthreads();
    }
    const u32 m = m0 + row, n = n0 + x;
    if (m >= g.m || n >= g.n) return;
    if (bias) sum += load(bias[n]);
    y[(static_cast<u64>(blockIdx.z) * g.m + m) * g.n + n] = store<T>(sum);
}

// The operands of this block's product, k-contiguous, mn-contiguous or of any strides.
template <class T>
__device__ RowsOfK<T> operand(const RowsOfK<T>*, const Operand& of, const T* x, u32 extent, u32 k_end) {
    return {x + blockIdx.z * of.product, of.mn, extent, k_end};
}
template <class T>
__device__ ColumnsOfK<T> operand(const ColumnsOfK<T>*, const Operand& of, const T* x, u32 extent, u32 k_end) {
    return {x + blockIdx.z * of.product, of.k, extent, k_end};
}
template <class T>
__device__ Strided<T> operand(const Strided<T>*, const Operand& of, const T* x, u32 extent, u32 k_end) {
    return {x + blockIdx.z * of.product, of.mn, of.k, extent, k_end};
}

template <class T>
__device__ Output<T, PlainRows> output(const Gemm& g, const T* bias, T* y, float* partials) {
    return {y, partials, bias, nullptr, 0, {static_cast<u64>(blockIdx.z) * g.m * g.n, g.n}};
}

template <int BM, int BN, int BK, int TM, int TN, bool VECTOR, template <class> class A, template <class> class B>
__device__ void matmul_register_tile(const Gemm& g, const Operand& of_a, const Operand& of_b, const float* a,
                                     const float* b, const float* bias, float* y, float* partials) {
    __shared__ RegisterTileShared<BM, BN, BK> shared;
    const Block block = Block::of<BM, BN>(g);
    const A<float> from_a = operand(static_cast<A<float>*>(nullptr), of_a, a, g.m, block.k_end);
    const B<float> from_b = operand(static_cast<B<float>*>(nullptr), of_b, b, g.n, block.k_end);
    register_tile<BM, BN, BK, TM, TN, VECTOR>(g, block, from_a, from_b, output(g, bias, y, partials), shared);
}

template <class T, class Tile, bool VECTOR, template <class> class A, template <class> class B>
__device__ void matmul_tensor_core(const Gemm& g, const Operand& of_a, const Operand& of_b, const T* a, const T* b,
                                   const T* bias, T* y, float* partials) {
    __shared__ alignas(128) unsigned char shared[Tile::BYTES];
    const Block block = Block::of<Tile::BM, Tile::BN>(g);
    const A<T> from_a = operand(static_cast<A<T>*>(nullptr), of_a, a, g.m, block.k_end);
    const B<T> from_b = operand(static_cast<B<T>*>(nullptr), of_b, b, g.n, block.k_end);
    tensor_core<T, Tile, VECTOR>(g, block, from_a, from_b, output(g, bias, y, partials), shared);
}

#define PARAMETERS(T)                                                                                                \
    const __grid_constant__ Gemm g, const __grid_constant__ Operand of_a, const __grid_constant__ Operand of_b,      \
        const T *a, const T *b, const T *bias, T *y, float *partials

#define SIMPLE(T)                                                                                                    \
    extern "C" __global__ void matmul_forward_##T##_naive(PARAMETERS(T)) { naive(g, of_a, of_b, a, b, bias, y); }    \
    extern "C" __global__ void __launch_bounds__(1024) matmul_forward_##T##_shared_tile(PARAMETERS(T)) {             \
        shared_tile(g, of_a, of_b, a, b, bias, y);                                                                   \
    }                                                                                                                \
    extern "C" __global__ void matmul_forward_##T##_split_sum(u64 count, u32 splits, u32 n, const float* partials,   \
                                                              const T* bias, T* y) {                                 \
        sum_splits(count, splits, n, partials, bias, y);                                                             \
    }
SIMPLE(f32)
SIMPLE(f16)
SIMPLE(bf16)

#define REGISTER_TILE(BM, BN, BK, TM, TN, layouts, VECTOR, A, B)                                                     \
    extern "C" __global__ void __launch_bounds__(BM / TM*(BN / TN), 2)                                               \
        matmul_forward_f32_register_tile_##BM##x##BN##_##layouts(PARAMETERS(float)) {                                \
        matmul_register_tile<BM, BN, BK, TM, TN, VECTOR, A, B>(g, of_a, of_b, a, b, bias, y, partials);              \
    }
#define REGISTER_TILES(BM, BN, BK, TM, TN)                                                                           \
    REGISTER_TILE(BM, BN, BK, TM, TN, kk, true, RowsOfK, RowsOfK)                                                    \
    REGISTER_TILE(BM, BN, BK, TM, TN, kn, true, RowsOfK, ColumnsOfK)                                                 \
    REGISTER_TILE(BM, BN, BK, TM, TN, mk, true, ColumnsOfK, RowsOfK)                                                 \
    REGISTER_TILE(BM, BN, BK, TM, TN, mn, true, ColumnsOfK, ColumnsOfK)
REGISTER_TILES(128, 128, 8, 8, 8)
REGISTER_TILES(64, 64, 16, 8, 4)
REGISTER_TILE(64, 64, 16, 8, 4, strided, false, Strided, Strided)

#define TENSOR_CORE(T, name, BM, BN, WM, WN, layouts, VECTOR, A, B)                                                  \
    extern "C" __global__ void __launch_bounds__(WM* WN * 32, 2)                                                     \
        matmul_forward_##name##_tensor_core_##BM##x##BN##_##layouts(PARAMETERS(T)) {                                 \
        typedef TensorCoreTile<T, BM, BN, WM, WN, 3> Tile;                                                           \
        matmul_tensor_core<T, Tile, VECTOR, A, B>(g, of_a, of_b, a, b, bias, y, partials);                           \
    }
#define TENSOR_CORES(T, BM, BN, WM, WN)                                                                              \
    TENSOR_CORE(T, T, BM, BN, WM, WN, kk, true, RowsOfK, RowsOfK)                                                    \
    TENSOR_CORE(T, T, BM, BN, WM, WN, kn, true, RowsOfK, ColumnsOfK)                                                 \
    TENSOR_CORE(T, T, BM, BN, WM, WN, mk, true, ColumnsOfK, RowsOfK)                                                 \
    TENSOR_CORE(T, T, BM, BN, WM, WN, mn, true, ColumnsOfK, ColumnsOfK)
TENSOR_CORES(f16, 128, 128, 2, 4)
TENSOR_CORES(f16, 64, 64, 2, 2)
TENSOR_CORES(bf16, 128, 128, 2, 4)
TENSOR_CORES(bf16, 64, 64, 2, 2)
TENSOR_CORE(f16, f16, 64, 64, 2, 2, strided, false, Strided, Strided)
TENSOR_CORE(bf16, bf16, 64, 64, 2, 2, strided, false, Strided, Strided)
TENSOR_CORE(float, tf32, 64, 64, 2, 2, strided, false, Strided, Strided)
