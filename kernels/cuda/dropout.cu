// Dropout.  x, y: [n].
//
//   dropout_<dtype>_vector4   y[i] = scale x[i] where word i of the random stream is at least `threshold`, else 0
//
// Being linear, it is its own backward pass. One thread takes 4 neighbouring elements, which is one Philox block: the
// same bits as on the CPU, whatever the grid. In a recorded graph, `later` points to the number of steps since the
// recording, by which the stream moves on; it is null elsewhere.
// Limit: memory, and some 70 integer instructions a block.

#include "args.cuh"
#include "half.cuh"
#include "philox.cuh"

template <class T>
__device__ void dropout(u64 n, Stream stream, u32 threshold, float scale, const u32* later, const T* __restrict__ x,
                        T* __restrict__ y) {
    const u64 block = thread_index();
    if (4 * block >= n) return;
    if (later) stream.counter[1] += *later;
    const Words words = random_words(stream, static_cast<u32>(block));
    const u64 first = 4 * block;
    if (first + 4 <= n) {
        Vector<T, 4> v = load_vector<4>(x + first);
#pragma unroll
        for (int i = 0; i < 4; i++) v.at[i] = store<T>(words.at[i] >= threshold ? load(v.at[i]) * scale : 0.0f);
        store_vector(y + first, v);
    } else {
#pragma unroll
        for (int i = 0; i < 3; i++) {  // unrolled, so that the words stay in registers
            if (first + i < n) y[first + i] = store<T>(words.at[i] >= threshold ? load(x[first + i]) * scale : 0.0f);
        }
    }
}

#define DROPOUT(T)                                                                                               \
    extern "C" __global__ void dropout_##T##_vector4(u64 n, const __grid_constant__ Stream stream, u32 threshold, \
                                                     float scale, const u32* later, const T* x, T* y) {          \
        dropout<T>(n, stream, threshold, scale, later, x, y);                                                    \
    }
DROPOUT(f32) DROPOUT(f16) DROPOUT(bf16)
