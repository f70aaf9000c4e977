// Reductions over any axes.  x: any shape; y: [outputs], one element for each position along the axes kept.
//
// Which elements of x make output o: x[offset(kept, o) + offset(reduced, r)] for r in 0..count. They are cut into
// `splits` chunks of `chunk` elements, by sizes alone, and each chunk gives one partial result:
//
//   <op>_<in>_<out>_rows       one warp a chunk: for reduced axes that lie innermost, lanes read neighbours
//   <op>_<in>_<out>_columns    32 outputs x 8 rows of threads a chunk: for kept axes that lie innermost
//
// y[split, o] is the result of a chunk; the host launches again over those (in f32) until one is left. Sums have a
// fixed order and no atomics. `divisor` is applied at the end: the count for a mean, 1 otherwise.
//
//   argmax_<dtype>_block            positions of the first maxima, one block an output
//   amax_ties_<dtype>_block         how many elements equal the maximum, one block an output
//   sum_backward_<dtype>_broadcast  dx = dy / divisor, repeated
//   amax_backward_<dtype>_broadcast dx = dy / ties where x is the maximum
//
// Limit: memory, one read of x.

#include "args.cuh"
#include "half.cuh"
#include "reduce.cuh"

template <class Op, class T, class Out>
__device__ void reduce_rows(u64 outputs, u64 splits, u64 count, u64 chunk, const Axes& kept, const Axes& reduced,
                            const T* __restrict__ x, Out* __restrict__ y, float divisor) {
    // blockDim = (32, warps): warp number `task` takes split task / outputs of output task % outputs.
    const u64 task = static_cast<u64>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (task >= outputs * splits) return;  // whole warps leave together
    const u64 split = task / outputs, output = task - split * outputs;
    const T* row = x + offset(kept, output);
    const u64 end = min(count, (split + 1) * chunk);
    float v = Op::identity();
#pragma unroll 4
    for (u64 r = split * chunk + threadIdx.x; r < end; r += 32) {
        v = Op::combine(v, Op::map(load(row[offset(reduced, r)])));
    }
    v = warp_reduce<Op>(v);
    if (threadIdx.x == 0) y[task] = store<Out>(v / divisor);
}

enum { COLUMN_ROWS = 8 };

template <class Op, class T, class Out>
__device__ void reduce_columns(u64 outputs, u64 splits, u64 count, u64 chunk, const Axes& kept, const Axes& reduced,
                               const T* __restrict__ x, Out* __restrict__ y, float divisor) {
    // blockDim = (32, 8), gridDim = (outputs / 32 * splits)
    __shared__ float partial[COLUMN_ROWS][32];
    const u64 tiles = (outputs + 31) / 32;
    const u64 split = blockIdx.x / tiles;
    const u64 output = (blockIdx.x - split * tiles) * 32 + threadIdx.x;
    float v = Op::identity();
    if (output < outputs) {
        const T* column = x + offset(kept, output);
        const u64 end = min(count, (split + 1) * chunk);
#pragma unroll 4
        for (u64 r = split * chunk + threadIdx.y; r < end; r += COLUMN_ROWS) {
            v = Op::combine(v, Op::map(load(column[offset(reduced, r)])));
        }
    }
    partial[threadIdx.y][threadIdx.x] = v;
    __syncthreads();
    if (threadIdx.y > 0 || output >= outputs) return;
#pragma unroll
    for (int row = 1; row < COLUMN_ROWS; row++) v = Op::combine(v, partial[row][threadIdx.x]);
    y[split * outputs + output] = store<Out>(v / divisor);
}

#define ROWS(name, Op, T, Out)                                                                                       \
    extern "C" __global__ void name##_##T##_##Out##_rows(u64 outputs, u64 splits, u64 count, u64 chunk,              \
                                                         const __grid_constant__ Axes kept,                          \
                                                         const __grid_constant__ Axes reduced, const T* x, Out* y,   \
                                                         float divisor) {                                            \
        reduce_rows<Op, T, Out>(outputs, splits, count, chunk, kept, reduced, x, y, divisor);                        \
    }
#define COLUMNS(name, Op, T, Out)                                                                                    \
    extern "C" __global__ void name##_##T##_##Out##_columns(u64 outputs, u64 splits, u64 count, u64 chunk,           \
                                                            const __grid_constant__ Axes kept,                       \
                                                            const __grid_constant__ Axes reduced, const T* x,        \
                                                            Out* y, float divisor) {                                 \
        reduce_columns<Op, T, Out>(outputs, splits, count, chunk, kept, reduced, x, y, divisor);                     \
    }
#define REDUCE(name, Op, T, Out) ROWS(name, Op, T, Out) COLUMNS(name, Op, T, Out)
#define REDUCE_DTYPES(name, Op)                                                                                      \
    REDUCE(name, Op, f32, f32) REDUCE(name, Op, f16, f32) REDUCE(name, Op, bf16, f32)                                \
    REDUCE(name, Op, f16, f16) REDUCE(name, Op, bf16, bf16) REDUCE(name, Op, f32, f16) REDUCE(name, Op, f32, bf16)

REDUCE_DTYPES(sum, Sum)
REDUCE_DTYPES(amax, Max)
// Of all elements at once.
ROWS(sum_squares, SumSquares, f32, f32) ROWS(sum_squares, SumSquares, f16, f32) ROWS(sum_squares, SumSquares, bf16, f32)

// A value and where it stands. The better one is larger, or as large and earlier.
struct Candidate {
    float value;
    u32 position;

    __device__ bool is_better_than(const Candidate& other) const {
        if (larger(value, other.value)) return true;
        return !larger(other.value, value) && position < other.position;
    }
};

// One block of 32 or 256 threads an output.
template <class T>
__device__ void argmax(u64 count, const Axes& kept, const Axes& reduced, const T* __restrict__ x,
                       int* __restrict__ y) {
    __shared__ Candidate of_warp[8];
    const T* row = x + offset(kept, blockIdx.x);
    Candidate best = {Max::identity(), FULL_WARP};  // worse than any element
    for (u64 r = threadIdx.x; r < count; r += blockDim.x) {
        const Candidate next = {load(row[offset(reduced, r)]), static_cast<u32>(r)};
        if (next.is_better_than(best)) best = next;
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const Candidate other = {__shfl_xor_sync(FULL_WARP, best.value, distance),
                                 __shfl_xor_sync(FULL_WARP, best.position, distance)};
        if (other.is_better_than(best)) best = other;
    }
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int warp = 1; warp < blockDim.x / 32; warp++) {
        if (of_warp[warp].is_better_than(best)) best = of_warp[warp];
    }
    y[blockIdx.x] = static_cast<int>(best.position);
}

__device__ inline bool is_maximum(float x, float y) {
    return !larger(x, y) && !larger(y, x);
}

// One block of 32 or 256 threads an output: the number of its elements that are equal to maximum[output] (NaN to NaN).
template <class T>
__device__ void amax_ties(u64 count, const Axes& kept, const Axes& reduced, const T* __restrict__ x,
                          const T* __restrict__ maximum, float* __restrict__ ties) {
    __shared__ u32 of_warp[8];
    const T* row = x + offset(kept, blockIdx.x);
    const float m = load(maximum[blockIdx.x]);
    u32 found = 0;
    for (u64 r = threadIdx.x; r < count; r += blockDim.x) found += is_maximum(load(row[offset(reduced, r)]), m);
    found = __reduce_add_sync(FULL_WARP, found);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = found;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int warp = 1; warp < blockDim.x / 32; warp++) found += of_warp[warp];
    ties[blockIdx.x] = static_cast<float>(found);
}

// results: the shape of x, with stride 0 along the axes reduced.
template <class T>
__device__ void sum_backward(u64 n, const Axes& results, const T* __restrict__ dy, T* __restrict__ dx, float divisor) {
    const u64 i = thread_index();
    if (i < n) dx[i] = store<T>(load(dy[offset(results, i)]) / divisor);
}

template <class T>
__device__ void amax_backward(u64 n, const Axes& results, const T* __restrict__ x, const T* __restrict__ y,
                              const float* __restrict__ ties, const T* __restrict__ dy, T* __restrict__ dx) {
    const u64 i = thread_index();
    if (i >= n) return;
    const u64 r = offset(results, i);
    dx[i] = store<T>(is_maximum(load(x[i]), load(y[r])) ? load(dy[r]) / ties[r] : 0.0f);
}

#define OTHERS(T)                                                                                                    \
    extern "C" __global__ void argmax_##T##_block(u64 count, const __grid_constant__ Axes kept,                      \
                                                  const __grid_constant__ Axes reduced, const T* x, int* y) {        \
        argmax<T>(count, kept, reduced, x, y);                                                                       \
    }                                                                                                                \
    extern "C" __global__ void amax_ties_##T##_block(u64 count, const __grid_constant__ Axes kept,                   \
                                                     const __grid_constant__ Axes reduced, const T* x,               \
                                                     const T* maximum, float* ties) {                                \
        amax_ties<T>(count, kept, reduced, x, maximum, ties);                                                        \
    }                                                                                                                \
    extern "C" __global__ void sum_backward_##T##_broadcast(u64 n, const __grid_constant__ Axes results,             \
                                                            const T* dy, T* dx, float divisor) {                     \
        sum_backward<T>(n, results, dy, dx, divisor);                                                                \
    }                                                                                                                \
    extern "C" __global__ void amax_backward_##T##_broadcast(u64 n, const __grid_constant__ Axes results,            \
                                                             const T* x, const T* y, const float* ties, const T* dy, \
                                                             T* dx) {                                                \
        amax_backward<T>(n, results, x, y, ties, dy, dx);                                                            \
    }
OTHERS(f32) OTHERS(f16) OTHERS(bf16)
