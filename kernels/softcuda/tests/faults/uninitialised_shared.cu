// A sum over the block: threads past the end leave their place in the tile as it is, and others add it.
// expects: uninitialised: read of 4 bytes of shared memory at 0xc0; thread (16,0,0)
extern "C" __global__ void uninitialised_shared(const float *x, float *y, unsigned n) {
    __shared__ float tile[64];
    unsigned t = threadIdx.x;
    if (t < n) {
        tile[t] = x[t];
    }
    __syncthreads();
    for (unsigned step = 32; step > 0; step /= 2) {
        if (t < step) {
            tile[t] += tile[t + step]; // FAULT
        }
        __syncthreads();
    }
    if (t == 0) {
        y[0] = tile[0];
    }
}

extern "C" __global__ void uninitialised_shared_fixed(const float *x, float *y, unsigned n) {
    __shared__ float tile[64];
    unsigned t = threadIdx.x;
    tile[t] = t < n ? x[t] : 0.0f;
    __syncthreads();
    for (unsigned step = 32; step > 0; step /= 2) {
        if (t < step) {
            tile[t] += tile[t + step];
        }
        __syncthreads();
    }
    if (t == 0) {
        y[0] = tile[0];
    }
}
