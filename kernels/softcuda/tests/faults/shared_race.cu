// Reverses a block in place: a warp may write what another has yet to read, or read what another has yet to write.
// expects: shared memory race; write after a read by thread [63, 0, 0] on line 49 (shared_race.cu:9)
extern "C" __global__ void shared_race(const float *x, float *y, unsigned n) {
    __shared__ float tile[64];
    unsigned t = threadIdx.x;
    tile[t] = 0.0f;
    __syncthreads();
    tile[t] = x[t]; // FAULT
    y[t] = tile[n - 1 - t];
}

extern "C" __global__ void shared_race_fixed(const float *x, float *y, unsigned n) {
    __shared__ float tile[64];
    unsigned t = threadIdx.x;
    tile[t] = 0.0f;
    __syncthreads();
    tile[t] = x[t];
    __syncthreads();
    y[t] = tile[n - 1 - t];
}
