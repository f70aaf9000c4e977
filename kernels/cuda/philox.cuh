// Philox 4x32-10, the counter-based random generator of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3"
// (SC 2011): the same bits as kernels/src/philox.rs, where its streams are explained.

#pragma once

#include "args.cuh"

struct Words {
    u32 at[4];
};

// Ten rounds on one 128-bit counter under a 64-bit key.
__device__ inline Words philox4x32_10(Words c, u32 key0, u32 key1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u32 high0 = __umulhi(0xD2511F53u, c.at[0]), low0 = 0xD2511F53u * c.at[0];
        const u32 high1 = __umulhi(0xCD9E8D57u, c.at[2]), low1 = 0xCD9E8D57u * c.at[2];
        c = {{high1 ^ c.at[1] ^ key0, low1, high0 ^ c.at[3] ^ key1, low0}};
        key0 += 0x9E3779B9u;  // golden ratio
        key1 += 0xBB67AE85u;  // sqrt(3) - 1
    }
    return c;
}

// `Stream` in kernels/src/philox.rs: the key, and words 1 to 3 of the counter; word 0 is the index of the block.
struct Stream {
    u32 key[2];
    u32 counter[3];
};

// Four random words: block `index` of the stream.
__device__ inline Words random_words(const Stream& s, u32 index) {
    return philox4x32_10({{index, s.counter[0], s.counter[1], s.counter[2]}}, s.key[0], s.key[1]);
}
