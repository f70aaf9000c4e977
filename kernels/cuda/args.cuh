// What kernels are told besides their buffers, and which element a thread works on.
//
// Sizes and offsets of elements have 64 bits: a tensor may have more than 2^31 elements.

#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;

// Largest number of axes that a kernel walks. The host first joins neighbouring axes that behave alike.
enum { MAX_AXES = 8 };

// Number of this thread in the grid, for grids of one dimension.
__device__ inline u64 thread_index() {
    return static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// A shape with the strides of one buffer, as kernel argument; axis 0 is the outermost, and rank is at least 1. As
// parameters of kernels they are `const __grid_constant__ Axes`: indexed where they are, not copied to local memory.
// `Axes` in kernels/src/axes.rs has the same layout.
struct Axes {
    u64 rank;
    u64 sizes[MAX_AXES];
    u64 strides[MAX_AXES];
};

// Offset of element `index` of a row-major walk over the axes. The outermost needs no division: with one axis this is a
// multiplication.
__device__ inline u64 offset(const Axes& axes, u64 index) {
    u64 sum = 0;
#pragma unroll 1
    for (u64 axis = axes.rank - 1; axis > 0; axis--) {
        const u64 rest = index / axes.sizes[axis];
        sum += (index - rest * axes.sizes[axis]) * axes.strides[axis];
        index = rest;
    }
    return sum + index * axes.strides[0];
}

// Notes that element `position` of a list of indices is outside its range. The smallest position is kept, with
// integers, so that what is reported does not depend on the order of the threads. `Indices` in
// kernels/src/cuda/indices.rs reads it.
__device__ inline void note_bad_index(u64* word, u64 position, int index) {
    atomicMin(word, position << 32 | static_cast<u32>(index));
}
