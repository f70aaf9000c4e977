// Functions of one input, element by element.  x, y, dx, dy: [n].
//
//   <op>_forward_<dtype>_vector4    y = op(x)
//   <op>_backward_<dtype>_vector4   dx = dy op'(x); saved is x or y, as engine/src/ops/<op>.rs needs it
//
//   accumulate_<dtype>_vector4      y += x
//
// One thread takes 4 neighbouring elements with one load and one store. There is no reuse, so the limit is memory: 2
// (forward) or 3 (backward) n elements over the bandwidth. 16-bit numbers are computed with as float and rounded
// once.
//
// An op is a struct with `forward` and `backward`; a and b are its constants: affine's scale and shift, leaky_relu's
// slope.

#include "args.cuh"
#include "half.cuh"

__device__ inline float sigmoid_of(float x) {
    return 1.0f / (1.0f + expf(-x));
}

// a x + b
struct Affine {
    static __device__ float forward(float x, float a, float b) { return a * x + b; }
    static __device__ float backward(float, float dy, float a) { return a * dy; }
};

struct Exp {
    static __device__ float forward(float x, float, float) { return expf(x); }
    static __device__ float backward(float y, float dy, float) { return dy * y; }
};

struct Log {
    static __device__ float forward(float x, float, float) { return logf(x); }
    static __device__ float backward(float x, float dy, float) { return dy / x; }
};

struct Sqrt {
    static __device__ float forward(float x, float, float) { return sqrtf(x); }
    static __device__ float backward(float y, float dy, float) { return dy / (y + y); }
};

struct Tanh {
    static __device__ float forward(float x, float, float) { return tanhf(x); }
    static __device__ float backward(float y, float dy, float) { return dy * (1.0f - y * y); }
};

struct Sigmoid {
    static __device__ float forward(float x, float, float) { return sigmoid_of(x); }
    static __device__ float backward(float y, float dy, float) { return dy * y * (1.0f - y); }
};

// NaN stays NaN: it is not <= 0.
struct Relu {
    static __device__ float forward(float x, float, float) { return x <= 0.0f ? 0.0f : x; }
    static __device__ float backward(float y, float dy, float) { return y <= 0.0f ? 0.0f : dy; }
};

struct LeakyRelu {
    static __device__ float forward(float x, float slope, float) { return x <= 0.0f ? slope * x : x; }
    static __device__ float backward(float x, float dy, float slope) { return x <= 0.0f ? slope * dy : dy; }
};

// x Φ(x). Φ(x) = erfc(-x / √2) / 2 keeps the digits of the left tail, which 1 + erf would lose.
// (x Φ)' = Φ + x φ with the density φ(x) = exp(-x²/2) / √(2π).
struct Gelu {
    static __device__ float cdf(float x) { return 0.5f * erfcf(-0.70710678f * x); }
    static __device__ float forward(float x, float, float) { return x * cdf(x); }
    static __device__ float backward(float x, float dy, float) {
        const float density = 0.39894228f * expf(-0.5f * x * x);
        return dy * (cdf(x) + x * density);
    }
};

// x s(x) with the sigmoid s; s' = s (1 - s), so (x s)' = s (1 + x (1 - s)).
struct Silu {
    static __device__ float forward(float x, float, float) { return x * sigmoid_of(x); }
    static __device__ float backward(float x, float dy, float) {
        const float s = sigmoid_of(x);
        return dy * s * (1.0f + x * (1.0f - s));
    }
};

template <class Op, class T>
__device__ void unary_forward(u64 n, const T* __restrict__ x, T* __restrict__ y, float a, float b) {
    const u64 first = 4 * thread_index();
    if (first + 4 <= n) {
        Vector<T, 4> v = load_vector<4>(x + first);
#pragma unroll
        for (int i = 0; i < 4; i++) v.at[i] = store<T>(Op::forward(load(v.at[i]), a, b));
        store_vector(y + first, v);
    } else {  // the last 0 to 3 elements
#pragma unroll 1
        for (u64 i = first; i < n; i++) y[i] = store<T>(Op::forward(load(x[i]), a, b));
    }
}

template <class Op, class T>
__device__ void unary_backward(u64 n, const T* __restrict__ saved, const T* __restrict__ dy, T* __restrict__ dx,
                               float a) {
    const u64 first = 4 * thread_index();
    if (first + 4 <= n) {
        const Vector<T, 4> s = load_vector<4>(saved + first);
        Vector<T, 4> d = load_vector<4>(dy + first);
#pragma unroll
        for (int i = 0; i < 4; i++) d.at[i] = store<T>(Op::backward(load(s.at[i]), load(d.at[i]), a));
        store_vector(dx + first, d);
    } else {
#pragma unroll 1
        for (u64 i = first; i < n; i++) dx[i] = store<T>(Op::backward(load(saved[i]), load(dy[i]), a));
    }
}

#define UNARY(op, Op, T)                                                                                             \
    extern "C" __global__ void op##_forward_##T##_vector4(u64 n, const T* x, T* y, float a, float b) {               \
        unary_forward<Op, T>(n, x, y, a, b);                                                                         \
    }                                                                                                                \
    extern "C" __global__ void op##_backward_##T##_vector4(u64 n, const T* saved, const T* dy, T* dx, float a) {     \
        unary_backward<Op, T>(n, saved, dy, dx, a);                                                                  \
    }
#define UNARY_DTYPES(op, Op) UNARY(op, Op, f32) UNARY(op, Op, f16) UNARY(op, Op, bf16)

UNARY_DTYPES(affine, Affine)
UNARY_DTYPES(exp, Exp)
UNARY_DTYPES(log, Log)
UNARY_DTYPES(sqrt, Sqrt)
UNARY_DTYPES(tanh, Tanh)
UNARY_DTYPES(sigmoid, Sigmoid)
UNARY_DTYPES(relu, Relu)
UNARY_DTYPES(leaky_relu, LeakyRelu)
UNARY_DTYPES(gelu, Gelu)
UNARY_DTYPES(silu, Silu)

template <class T>
__device__ void accumulate(u64 n, T* __restrict__ y, const T* __restrict__ x) {
    const u64 first = 4 * thread_index();
    if (first + 4 <= n) {
        const Vector<T, 4> v = load_vector<4>(x + first);
        Vector<T, 4> sum = load_vector<4>(y + first);
#pragma unroll
        for (int i = 0; i < 4; i++) sum.at[i] = store<T>(load(sum.at[i]) + load(v.at[i]));
        store_vector(y + first, sum);
    } else {
#pragma unroll 1
        for (u64 i = first; i < n; i++) y[i] = store<T>(load(y[i]) + load(x[i]));
    }
}

#define ACCUMULATE(T)                                                                        \
    extern "C" __global__ void accumulate_##T##_vector4(u64 n, T* y, const T* x) {           \
        accumulate<T>(n, y, x);                                                              \
    }
ACCUMULATE(f32) ACCUMULATE(f16) ACCUMULATE(bf16)
