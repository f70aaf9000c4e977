// Movement of elements, whatever they are: kernels are named after their bits.
//
//   copy_b<bits>_strided             y[offset(to, i)] = x[offset(from, i)] for i in 0..n: permute, slice, concat and
//                                    pad are this with different strides (and addresses that the host has moved)
//   gather_forward_b<bits>_strided   y[o, i, k] = x[o, indices[i], k]; a bad index is noted (see args.cuh) and gives 0
//   gather_backward_<dtype>_scan     dx[o, a, k] = Σ dy[o, i, k] over the i with indices[i] = a, in order
//
// x, dx of gather: [outer, axis, inner]; y, dy: [outer, count, inner]. Limit: memory; where a permutation moves the
// innermost axis, either the reads or the writes of a warp are scattered.

#include "args.cuh"
#include "half.cuh"

typedef unsigned char b8;
typedef unsigned short b16;
typedef unsigned int b32;

template <class T>
__device__ void copy(u64 n, const Axes& from, const Axes& to, const T* __restrict__ x, T* __restrict__ y) {
    const u64 i = thread_index();
    if (i < n) y[offset(to, i)] = x[offset(from, i)];
}

template <class T>
__device__ void gather_forward(u64 outer, u64 axis, u64 inner, u64 count, const T* __restrict__ x,
                               const int* __restrict__ indices, T* __restrict__ y, u64* bad) {
    const u64 element = thread_index();
    if (element >= outer * count * inner) return;
    const u64 row = element / inner, o = row / count, i = row - o * count;
    const int index = indices[i];
    if (index < 0 || index >= axis) {
        note_bad_index(bad, i, index);
        y[element] = 0;
        return;
    }
    y[element] = x[(o * axis + index) * inner + (element - row * inner)];
}

// Each element of x looks through all indices. They are the same for the threads of a warp, or nearly: cached.
template <class T>
__device__ void gather_backward(u64 outer, u64 axis, u64 inner, u64 count, const int* __restrict__ indices,
                                const T* __restrict__ dy, T* __restrict__ dx) {
    const u64 element = thread_index();
    if (element >= outer * axis * inner) return;
    const u64 row = element / inner, o = row / axis, mine = row - o * axis;
    const T* column = dy + o * count * inner + (element - row * inner);
    float sum = 0.0f;
    for (u64 i = 0; i < count; i++) {
        if (indices[i] == mine) sum += load(column[i * inner]);
    }
    dx[element] = store<T>(sum);
}

#define MOVEMENT(T)                                                                                                  \
    extern "C" __global__ void copy_##T##_strided(u64 n, const __grid_constant__ Axes from,                          \
                                                  const __grid_constant__ Axes to, const T* x, T* y) {               \
        copy<T>(n, from, to, x, y);                                                                                  \
    }                                                                                                                \
    extern "C" __global__ void gather_forward_##T##_strided(u64 outer, u64 axis, u64 inner, u64 count, const T* x,   \
                                                            const int* indices, T* y, u64* bad) {                    \
        gather_forward<T>(outer, axis, inner, count, x, indices, y, bad);                                            \
    }
MOVEMENT(b8) MOVEMENT(b16) MOVEMENT(b32)

#define GATHER_BACKWARD(T)                                                                                           \
    extern "C" __global__ void gather_backward_##T##_scan(u64 outer, u64 axis, u64 inner, u64 count,                 \
                                                          const int* indices, const T* dy, T* dx) {                  \
        gather_backward<T>(outer, axis, inner, count, indices, dy, dx);                                              \
    }
GATHER_BACKWARD(f32) GATHER_BACKWARD(f16) GATHER_BACKWARD(bf16)
