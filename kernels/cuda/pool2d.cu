// Pooling.  x, dx: [n, h, w, c]; y, dy, positions: [n, oh, ow, c].
//
//   max_pool2d_forward_<dtype>_gather    y and the position iy * w + ix of the first maximum (NaN counts as largest)
//   max_pool2d_backward_<dtype>_gather   dx = Σ of the dy whose maximum came from here
//   avg_pool2d_forward_<dtype>_gather    mean of the window, padding left out
//   avg_pool2d_backward_<dtype>_gather   dx = Σ of dy / (elements of its window)
//
// One thread an element of what is written, channels innermost, so that a warp reads neighbours. The backward passes
// gather too: an element of x looks at the windows that cover it, row by row, and adds their shares in that order. So
// overlapping windows need no atomics. Limit: memory.

#include "args.cuh"
#include "half.cuh"
#include "reduce.cuh"

// `Pool2d` in kernels/src/cuda/pool2d.rs has the same layout.
struct Pool2d {
    u64 n, h, w, c, oh, ow;
    u64 kernel_y, kernel_x, stride_y, stride_x, padding_y, padding_x;
};

// begin..end
struct Range {
    u64 begin, end;
};

// The input positions along one axis that output position `o` covers, padding left out.
__device__ inline Range window(u64 o, u64 kernel, u64 stride, u64 padding, u64 size) {
    const u64 start = o * stride;
    const u64 end = min(start + kernel > padding ? start + kernel - padding : 0, size);
    return {min(start > padding ? start - padding : 0, end), end};
}

// The output positions along one axis whose windows cover input position `i`: those o with
// o stride <= i + padding < o stride + kernel.
__device__ inline Range covering(u64 i, u64 kernel, u64 stride, u64 padding, u64 outputs) {
    const u64 last = i + padding;
    const u64 begin = last < kernel ? 0 : (last - kernel) / stride + 1;
    return {begin, min(last / stride + 1, outputs)};
}

// An element of an image: [image, y, x, channel] of a shape [.., height, width, c].
struct Place {
    u64 image, y, x, channel;
};

__device__ inline Place place_of(u64 index, u64 height, u64 width, u64 c) {
    const u64 pixel = index / c, row = pixel / width, image = row / height;
    return {image, row - image * height, pixel - row * width, index - pixel * c};
}

template <class T>
__device__ void max_forward(const Pool2d& p, const T* __restrict__ x, T* __restrict__ y, int* __restrict__ positions) {
    const u64 i = thread_index();
    if (i >= p.n * p.oh * p.ow * p.c) return;
    const Place at = place_of(i, p.oh, p.ow, p.c);
    const Range rows = window(at.y, p.kernel_y, p.stride_y, p.padding_y, p.h);
    const Range columns = window(at.x, p.kernel_x, p.stride_x, p.padding_x, p.w);
    float best = Max::identity();
    u64 position = rows.begin * p.w + columns.begin;  // a window of -inf points into itself
    for (u64 iy = rows.begin; iy < rows.end; iy++) {
        for (u64 ix = columns.begin; ix < columns.end; ix++) {
            const float v = load(x[((at.image * p.h + iy) * p.w + ix) * p.c + at.channel]);
            if (larger(v, best)) {
                best = v;
                position = iy * p.w + ix;
            }
        }
    }
    y[i] = store<T>(best);
    positions[i] = static_cast<int>(position);
}

template <class T>
__device__ void max_backward(const Pool2d& p, const int* __restrict__ positions, const T* __restrict__ dy,
                             T* __restrict__ dx) {
    const u64 i = thread_index();
    if (i >= p.n * p.h * p.w * p.c) return;
    const Place at = place_of(i, p.h, p.w, p.c);
    const Range rows = covering(at.y, p.kernel_y, p.stride_y, p.padding_y, p.oh);
    const Range columns = covering(at.x, p.kernel_x, p.stride_x, p.padding_x, p.ow);
    const u64 here = at.y * p.w + at.x;
    float sum = 0.0f;
    for (u64 oy = rows.begin; oy < rows.end; oy++) {
        for (u64 ox = columns.begin; ox < columns.end; ox++) {
            const u64 output = ((at.image * p.oh + oy) * p.ow + ox) * p.c + at.channel;
            if (positions[output] == here) sum += load(dy[output]);
        }
    }
    dx[i] = store<T>(sum);
}

template <class T>
__device__ void avg_forward(const Pool2d& p, const T* __restrict__ x, T* __restrict__ y) {
    const u64 i = thread_index();
    if (i >= p.n * p.oh * p.ow * p.c) return;
    const Place at = place_of(i, p.oh, p.ow, p.c);
    const Range rows = window(at.y, p.kernel_y, p.stride_y, p.padding_y, p.h);
    const Range columns = window(at.x, p.kernel_x, p.stride_x, p.padding_x, p.w);
    float sum = 0.0f;
    for (u64 iy = rows.begin; iy < rows.end; iy++) {
        for (u64 ix = columns.begin; ix < columns.end; ix++) {
            sum += load(x[((at.image * p.h + iy) * p.w + ix) * p.c + at.channel]);
        }
    }
    y[i] = store<T>(sum / static_cast<float>((rows.end - rows.begin) * (columns.end - columns.begin)));
}

template <class T>
__device__ void avg_backward(const Pool2d& p, const T* __restrict__ dy, T* __restrict__ dx) {
    const u64 i = thread_index();
    if (i >= p.n * p.h * p.w * p.c) return;
    const Place at = place_of(i, p.h, p.w, p.c);
    const Range rows = covering(at.y, p.kernel_y, p.stride_y, p.padding_y, p.oh);
    const Range columns = covering(at.x, p.kernel_x, p.stride_x, p.padding_x, p.ow);
    float sum = 0.0f;
    for (u64 oy = rows.begin; oy < rows.end; oy++) {
        const Range height = window(oy, p.kernel_y, p.stride_y, p.padding_y, p.h);
        for (u64 ox = columns.begin; ox < columns.end; ox++) {
            const Range width = window(ox, p.kernel_x, p.stride_x, p.padding_x, p.w);
            const u64 elements = (height.end - height.begin) * (width.end - width.begin);
            const u64 output = ((at.image * p.oh + oy) * p.ow + ox) * p.c + at.channel;
            sum += load(dy[output]) / static_cast<float>(elements);
        }
    }
    dx[i] = store<T>(sum);
}

#define POOL2D(T)                                                                                                    \
    extern "C" __global__ void max_pool2d_forward_##T##_gather(const __grid_constant__ Pool2d p, const T* x, T* y,   \
                                                               int* positions) {                                     \
        max_forward<T>(p, x, y, positions);                                                                          \
    }                                                                                                                \
    extern "C" __global__ void max_pool2d_backward_##T##_gather(const __grid_constant__ Pool2d p,                    \
                                                                const int* positions, const T* dy, T* dx) {          \
        max_backward<T>(p, positions, dy, dx);                                                                       \
    }                                                                                                                \
    extern "C" __global__ void avg_pool2d_forward_##T##_gather(const __grid_constant__ Pool2d p, const T* x, T* y) { \
        avg_forward<T>(p, x, y);                                                                                     \
    }                                                                                                                \
    extern "C" __global__ void avg_pool2d_backward_##T##_gather(const __grid_constant__ Pool2d p, const T* dy,       \
                                                                T* dx) {                                             \
        avg_backward<T>(p, dy, dx);                                                                                  \
    }
POOL2D(f32) POOL2D(f16) POOL2D(bf16)
