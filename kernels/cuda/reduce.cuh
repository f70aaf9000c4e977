// Sums and maxima over the 32 lanes of a warp and the warps of a block, in a fixed order.

#pragma once

#include "args.cuh"

enum : u32 { FULL_WARP = 0xffffffffu };

// NaN counts as the largest number.
__device__ inline bool larger(float a, float b) {
    return a > b || (a != a && b == b);
}

struct Sum {
    static __device__ float identity() { return 0.0f; }
    static __device__ float map(float x) { return x; }
    static __device__ float combine(float a, float b) { return a + b; }
};

struct SumSquares {
    static __device__ float identity() { return 0.0f; }
    static __device__ float map(float x) { return x * x; }
    static __device__ float combine(float a, float b) { return a + b; }
};

struct Max {
    static __device__ float identity() { return __int_as_float(0xff800000); }  // -inf
    static __device__ float map(float x) { return x; }
    static __device__ float combine(float a, float b) { return larger(b, a) ? b : a; }
};

// All 32 lanes must call, in a block 32 wide (threadIdx.x is the lane); every lane gets the result. A butterfly: lane
// i meets lane i ^ 16, then i ^ 8, ... Both partners combine the same two numbers, the lower lane's first, so that
// all lanes end with the same bits.
template <class Op>
__device__ inline float warp_reduce(float v) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(FULL_WARP, v, distance);
        const bool upper = threadIdx.x & distance;
        v = upper ? Op::combine(other, v) : Op::combine(v, other);
    }
    return v;
}
