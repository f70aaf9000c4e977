// Functions of two inputs that broadcast.  y, dy: [n], the shape of the result; a, b: smaller where they repeat.
//
//   <op>_forward_<dtype>_vector4       y = a op b, both of the result's shape
//   <op>_forward_<dtype>_broadcast     y = a op b; an axis along which an input repeats has stride 0
//   <op>_backward_{a,b}_<dtype>_<out>_broadcast   dy times the derivative by a or b: d [n], like y
//
// Where an input repeats, `d` (then f32) is summed over the repetitions by reduce.cu: a fixed order, no atomics.

#include "args.cuh"
#include "half.cuh"
#include "reduce.cuh"

struct Add {
    static __device__ float forward(float a, float b) { return a + b; }
};

struct Sub {
    static __device__ float forward(float a, float b) { return a - b; }
    static __device__ float backward_b(float, float, float dy) { return -dy; }
};

struct Mul {
    static __device__ float forward(float a, float b) { return a * b; }
    static __device__ float backward_a(float, float b, float dy) { return dy * b; }
    static __device__ float backward_b(float a, float, float dy) { return dy * a; }
};

struct Div {
    static __device__ float forward(float a, float b) { return a / b; }
    static __device__ float backward_a(float, float b, float dy) { return dy / b; }
    static __device__ float backward_b(float a, float b, float dy) { return -dy * (a / b) / b; }
};

// The larger, NaN if either is NaN; at a tie each gets half of the gradient.
struct Maximum {
    static __device__ float share(float mine, float other, float dy) {
        return larger(mine, other) ? dy : larger(other, mine) ? 0.0f : 0.5f * dy;
    }
    static __device__ float forward(float a, float b) { return larger(b, a) ? b : a; }
    static __device__ float backward_a(float a, float b, float dy) { return share(a, b, dy); }
    static __device__ float backward_b(float a, float b, float dy) { return share(b, a, dy); }
};

template <class Op, class T>
__device__ void forward_vector(u64 n, const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ y) {
    const u64 first = 4 * thread_index();
    if (first + 4 <= n) {
        const Vector<T, 4> va = load_vector<4>(a + first), vb = load_vector<4>(b + first);
        Vector<T, 4> v;
#pragma unroll
        for (int i = 0; i < 4; i++) v.at[i] = store<T>(Op::forward(load(va.at[i]), load(vb.at[i])));
        store_vector(y + first, v);
    } else {
#pragma unroll 1
        for (u64 i = first; i < n; i++) y[i] = store<T>(Op::forward(load(a[i]), load(b[i])));
    }
}

template <class Op, class T>
__device__ void forward_broadcast(u64 n, const Axes& a_axes, const Axes& b_axes, const T* __restrict__ a,
                                  const T* __restrict__ b, T* __restrict__ y) {
    const u64 i = thread_index();
    if (i >= n) return;
    y[i] = store<T>(Op::forward(load(a[offset(a_axes, i)]), load(b[offset(b_axes, i)])));
}

template <class Op, bool A, class T, class Out>
__device__ void backward_broadcast(u64 n, const Axes& a_axes, const Axes& b_axes, const T* __restrict__ a,
                                   const T* __restrict__ b, const T* __restrict__ dy, Out* __restrict__ d) {
    const u64 i = thread_index();
    if (i >= n) return;
    const float va = load(a[offset(a_axes, i)]), vb = load(b[offset(b_axes, i)]), g = load(dy[i]);
    if constexpr (A) {
        d[i] = store<Out>(Op::backward_a(va, vb, g));
    } else {
        d[i] = store<Out>(Op::backward_b(va, vb, g));
    }
}

#define FORWARD(op, Op, T)                                                                                           \
    extern "C" __global__ void op##_forward_##T##_vector4(u64 n, const T* a, const T* b, T* y) {                     \
        forward_vector<Op, T>(n, a, b, y);                                                                           \
    }                                                                                                                \
    extern "C" __global__ void op##_forward_##T##_broadcast(u64 n, const __grid_constant__ Axes a_axes,              \
                                                            const __grid_constant__ Axes b_axes, const T* a,         \
                                                            const T* b, T* y) {                                      \
        forward_broadcast<Op, T>(n, a_axes, b_axes, a, b, y);                                                        \
    }
#define BACKWARD(op, Op, side, IsA, T, Out)                                                                          \
    extern "C" __global__ void op##_backward_##side##_##T##_##Out##_broadcast(                                       \
        u64 n, const __grid_constant__ Axes a_axes, const __grid_constant__ Axes b_axes, const T* a, const T* b,     \
        const T* dy, Out* d) {                                                                                       \
        backward_broadcast<Op, IsA, T, Out>(n, a_axes, b_axes, a, b, dy, d);                                         \
    }
#define FORWARDS(op, Op) FORWARD(op, Op, f32) FORWARD(op, Op, f16) FORWARD(op, Op, bf16)
#define SIDE(op, Op, side, IsA)                                                                                      \
    BACKWARD(op, Op, side, IsA, f32, f32) BACKWARD(op, Op, side, IsA, f16, f16) BACKWARD(op, Op, side, IsA, f16, f32) \
    BACKWARD(op, Op, side, IsA, bf16, bf16) BACKWARD(op, Op, side, IsA, bf16, f32)
#define BINARY(op, Op) FORWARDS(op, Op) SIDE(op, Op, a, true) SIDE(op, Op, b, false)

// Where the gradient is dy itself, there is nothing to compute.
FORWARDS(add, Add)
FORWARDS(sub, Sub) SIDE(sub, Sub, b, false)
BINARY(mul, Mul)
BINARY(div, Div)
BINARY(max, Maximum)
