// A tile for one warp, in a block of two.
// expects: out of bounds: write of 4 bytes of shared memory at 0x80: there are 128 bytes; thread (32,0,0)
extern "C" __global__ void shared_too_small(const float *x, float *y, unsigned n) {
    __shared__ float tile[32];
    unsigned t = threadIdx.x;
    tile[t] = x[t]; // FAULT
    __syncthreads();
    y[t] = tile[n - 1 - t];
}
