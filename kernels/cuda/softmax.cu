// Softmax and log-softmax over rows.  x, y, dy, dx: [rows, len], row-major.
//
//   softmax_forward        y = exp(x - m) / s,      m = max x, s = Σ exp(x - m)
//   softmax_backward       dx = y (dy - Σ dy y)
//   log_softmax_forward    y = (x - m) - ln s
//   log_softmax_backward   dx = dy - exp(y) Σ dy
//
// each as a ladder of two rungs:
//
//   .._<dtype>_thread   one thread a row: the formulas as they stand; the lanes of a warp read `len` elements apart
//   .._<dtype>_warp     one warp a row: lanes read neighbours, and meet in shuffles; blockDim = (32, rows a block). A
//                       row is read up to three times, from the first-level cache after the first
//
// Limit: memory, one read and one write of the rows.

#include "args.cuh"
#include "half.cuh"
#include "reduce.cuh"

// --- The first rung -------------------------------------------------------------------------------------------------

template <bool LOG, class T>
__device__ void forward_thread(u64 rows, u64 len, const T* __restrict__ x, T* __restrict__ y) {
    const u64 row = thread_index();
    if (row >= rows) return;
    x += row * len;
    y += row * len;
    float max = Max::identity();
    for (u64 i = 0; i < len; i++) max = Max::combine(max, load(x[i]));
    float sum = 0.0f;
    for (u64 i = 0; i < len; i++) sum += expf(load(x[i]) - max);
    for (u64 i = 0; i < len; i++) {
        const float z = load(x[i]) - max;
        y[i] = store<T>(LOG ? z - logf(sum) : expf(z) / sum);
    }
}

template <bool LOG, class T>
__device__ void backward_thread(u64 rows, u64 len, const T* __restrict__ y, const T* __restrict__ dy,
                                T* __restrict__ dx) {
    const u64 row = thread_index();
    if (row >= rows) return;
    y += row * len;
    dy += row * len;
    dx += row * len;
    float total = 0.0f;
    for (u64 i = 0; i < len; i++) total += LOG ? load(dy[i]) : load(dy[i]) * load(y[i]);
    for (u64 i = 0; i < len; i++) {
        const float v = load(y[i]), g = load(dy[i]);
        dx[i] = store<T>(LOG ? g - expf(v) * total : v * (g - total));
    }
}

// --- One warp a row -------------------------------------------------------------------------------------------------

// Largest of a row, NaN if any is NaN; every lane of the warp gets it.
template <class T>
__device__ float row_max(u64 len, const T* row) {
    float v = Max::identity();
    for (u64 i = threadIdx.x; i < len; i += 32) v = Max::combine(v, load(row[i]));
    return warp_reduce<Max>(v);
}

// Σ exp(x - max) of a row; every lane gets it.
template <class T>
__device__ float row_sum_exp(u64 len, const T* row, float max) {
    float v = 0.0f;
    for (u64 i = threadIdx.x; i < len; i += 32) v += expf(load(row[i]) - max);
    return warp_reduce<Sum>(v);
}

template <bool LOG, class T>
__device__ void forward(u64 rows, u64 len, const T* __restrict__ x, T* __restrict__ y) {
    const u64 row = static_cast<u64>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;  // whole warps leave together: shuffles stay legal
    x += row * len;
    y += row * len;
    const float max = row_max(len, x);
    const float sum = row_sum_exp(len, x, max);
    const float log_sum = logf(sum);
    for (u64 i = threadIdx.x; i < len; i += 32) {
        const float z = load(x[i]) - max;
        y[i] = store<T>(LOG ? z - log_sum : expf(z) / sum);
    }
}

template <bool LOG, class T>
__device__ void backward(u64 rows, u64 len, const T* __restrict__ y, const T* __restrict__ dy, T* __restrict__ dx) {
    const u64 row = static_cast<u64>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    y += row * len;
    dy += row * len;
    dx += row * len;
    float total = 0.0f;
    for (u64 i = threadIdx.x; i < len; i += 32) total += LOG ? load(dy[i]) : load(dy[i]) * load(y[i]);
    total = warp_reduce<Sum>(total);
    for (u64 i = threadIdx.x; i < len; i += 32) {
        const float v = load(y[i]), g = load(dy[i]);
        dx[i] = store<T>(LOG ? g - expf(v) * total : v * (g - total));
    }
}

#define SOFTMAX(name, LOG, T)                                                                                        \
    extern "C" __global__ void name##_forward_##T##_thread(u64 rows, u64 len, const T* x, T* y) {                    \
        forward_thread<LOG, T>(rows, len, x, y);                                                                     \
    }                                                                                                                \
    extern "C" __global__ void name##_backward_##T##_thread(u64 rows, u64 len, const T* y, const T* dy, T* dx) {     \
        backward_thread<LOG, T>(rows, len, y, dy, dx);                                                               \
    }                                                                                                                \
    extern "C" __global__ void name##_forward_##T##_warp(u64 rows, u64 len, const T* x, T* y) {                      \
        forward<LOG, T>(rows, len, x, y);                                                                            \
    }                                                                                                                \
    extern "C" __global__ void name##_backward_##T##_warp(u64 rows, u64 len, const T* y, const T* dy, T* dx) {       \
        backward<LOG, T>(rows, len, y, dy, dx);                                                                      \
    }
#define SOFTMAX_DTYPES(name, LOG) SOFTMAX(name, LOG, f32) SOFTMAX(name, LOG, f16) SOFTMAX(name, LOG, bf16)

SOFTMAX_DTYPES(softmax, false)
SOFTMAX_DTYPES(log_softmax, true)
