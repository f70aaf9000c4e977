// The last steps of a sum as they were written when the lanes of a warp ran in step, which they no longer do.
// expects: shared memory race
extern "C" __global__ void warp_in_step(const float *x, float *y, unsigned n) {
    __shared__ volatile float tile[64];
    unsigned t = threadIdx.x;
    tile[t] = t < n ? x[t] : 0.0f;
    __syncthreads();
    if (t < 32) {
        for (unsigned step = 32; step > 0; step /= 2) {
            tile[t] = tile[t] + tile[t + step]; // FAULT
        }
    }
    if (t == 0) {
        y[0] = tile[0];
    }
}
