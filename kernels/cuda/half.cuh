// Numbers of 16 bits, without NVIDIA's headers: stored as bits, computed with as float.
//
//   load(x)      f32, f16 or bf16 to float, exactly
//   store<T>(v)  float to T, rounded to nearest even
//   Vector<T,N>  N elements that are moved by one instruction; its address must be a multiple of its size

#pragma once

struct f16 {
    unsigned short bits;
};

struct bf16 {
    unsigned short bits;
};

typedef float f32;

__device__ inline float load(f32 x) {
    return x;
}

__device__ inline float load(f16 x) {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(x.bits));
    return v;
}

// bf16 is the upper half of a float.
__device__ inline float load(bf16 x) {
    return __int_as_float(static_cast<int>(x.bits) << 16);
}

template <class T>
__device__ T store(float v);

template <>
__device__ inline f32 store<f32>(float v) {
    return v;
}

template <>
__device__ inline f16 store<f16>(float v) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(v));
    return y;
}

template <>
__device__ inline bf16 store<bf16>(float v) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(v));
    return y;
}

template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
    T at[N];
};

template <int N, class T>
__device__ inline Vector<T, N> load_vector(const T* x) {
    return *reinterpret_cast<const Vector<T, N>*>(x);
}

template <int N, class T>
__device__ inline void store_vector(T* y, Vector<T, N> v) {
    *reinterpret_cast<Vector<T, N>*>(y) = v;
}
