// Filling and converting.  x, y: [n].
//
//   fill_b<bits>_vector4            y = a constant of that many bits, whatever its type
//   cast_<from>_to_<to>_vector4     y = x in another dtype: to floats rounded to nearest even, once; to integers
//                                   rounded to nearest even and saturating, 0 for NaN
//   fill_bad_indices                see below
//
// One thread takes 4 neighbouring elements. Limit: memory.

#include "args.cuh"
#include "half.cuh"

// Where kernels note bad labels and indices, a word an op and bound (kernels/src/cuda/indices.rs). Here, because it
// stays where it is as long as the backend lives.
constexpr u32 INDEX_WORDS = 256;
extern "C" {
__device__ u64 bad_indices[INDEX_WORDS];

// One block of INDEX_WORDS threads: nothing is noted.
__global__ void fill_bad_indices() { bad_indices[threadIdx.x] = ~u64(0); }
}

typedef unsigned char b8;
typedef unsigned short b16;
typedef unsigned int b32;
typedef unsigned long long b64;

template <class T>
__device__ void fill(u64 n, T* __restrict__ y, T value) {
    const u64 first = 4 * thread_index();
    if (first + 4 <= n) {
        store_vector(y + first, Vector<T, 4>{value, value, value, value});
    } else {
#pragma unroll 1
        for (u64 i = first; i < n; i++) y[i] = value;
    }
}

#define FILL(T) \
    extern "C" __global__ void fill_##T##_vector4(u64 n, T* y, T value) { fill<T>(n, y, value); }
FILL(b8) FILL(b16) FILL(b32) FILL(b64)

typedef double f64;
typedef int i32;
typedef signed char i8;
typedef unsigned char u8;

// Numbers that f32 holds exactly go through it, i32 and f64 through f64.
__device__ inline double widen(f64 x) { return x; }
__device__ inline double widen(i32 x) { return x; }
__device__ inline float widen(i8 x) { return x; }
__device__ inline float widen(u8 x) { return x; }
__device__ inline float widen(f32 x) { return x; }
__device__ inline float widen(f16 x) { return load(x); }
__device__ inline float widen(bf16 x) { return load(x); }

// f64 to f32 such that rounding again, to 16 bits, rounds only once in all: towards zero, and odd if that was inexact
// (Boldo and Melquiond 2008).
__device__ inline float round_to_odd(double v) {
    const float truncated = __double2float_rz(v);
    const bool exact = static_cast<double>(truncated) == v || v != v;
    return exact ? truncated : __int_as_float(__float_as_int(truncated) | 1);
}

__device__ inline int saturated(float v, int low, int high) {
    const int rounded = v != v ? 0 : __float2int_rn(v);  // the conversion saturates
    return min(max(rounded, low), high);
}

__device__ inline int saturated(double v, int low, int high) {
    const int rounded = v != v ? 0 : __double2int_rn(v);
    return min(max(rounded, low), high);
}

enum { I32_MIN = -2147483647 - 1, I32_MAX = 2147483647 };

template <class T> struct Narrow;
template <> struct Narrow<f64> {
    static __device__ f64 from(float v) { return v; }
    static __device__ f64 from(double v) { return v; }
};
template <> struct Narrow<f32> {
    static __device__ f32 from(float v) { return v; }
    static __device__ f32 from(double v) { return __double2float_rn(v); }
};
template <> struct Narrow<f16> {
    static __device__ f16 from(float v) { return store<f16>(v); }
    static __device__ f16 from(double v) { return store<f16>(round_to_odd(v)); }
};
template <> struct Narrow<bf16> {
    static __device__ bf16 from(float v) { return store<bf16>(v); }
    static __device__ bf16 from(double v) { return store<bf16>(round_to_odd(v)); }
};
template <> struct Narrow<i32> {
    template <class W> static __device__ i32 from(W v) { return saturated(v, I32_MIN, I32_MAX); }
};
template <> struct Narrow<i8> {
    template <class W> static __device__ i8 from(W v) { return saturated(v, -128, 127); }
};
template <> struct Narrow<u8> {
    template <class W> static __device__ u8 from(W v) { return saturated(v, 0, 255); }
};

template <class From, class To>
__device__ void cast(u64 n, const From* __restrict__ x, To* __restrict__ y) {
    const u64 first = 4 * thread_index();
    if (first + 4 <= n) {
        const Vector<From, 4> v = load_vector<4>(x + first);
        Vector<To, 4> w;
#pragma unroll
        for (int i = 0; i < 4; i++) w.at[i] = Narrow<To>::from(widen(v.at[i]));
        store_vector(y + first, w);
    } else {
#pragma unroll 1
        for (u64 i = first; i < n; i++) y[i] = Narrow<To>::from(widen(x[i]));
    }
}

#define CAST(From, To)                                                                                               \
    extern "C" __global__ void cast_##From##_to_##To##_vector4(u64 n, const From* x, To* y) { cast<From, To>(n, x, y); }
#define CASTS(A, B, C, D, E, F, G) CAST(A, B) CAST(A, C) CAST(A, D) CAST(A, E) CAST(A, F) CAST(A, G)

CASTS(f64, f32, f16, bf16, i32, i8, u8)
CASTS(f32, f64, f16, bf16, i32, i8, u8)
CASTS(f16, f64, f32, bf16, i32, i8, u8)
CASTS(bf16, f64, f32, f16, i32, i8, u8)
CASTS(i32, f64, f32, f16, bf16, i8, u8)
CASTS(i8, f64, f32, f16, bf16, i32, u8)
CASTS(u8, f64, f32, f16, bf16, i32, i8)
