// Threads past the end leave early, and the others wait for them at the barrier.
// expects: barrier divergence: 48 of 64 threads wait at barrier 0; thread (0,0,0)
extern "C" __global__ void barrier_divergence(const float *x, float *y, unsigned n) {
    __shared__ float tile[64];
    unsigned t = threadIdx.x;
    if (t >= n) {
        return;
    }
    tile[t] = x[t];
    __syncthreads(); // FAULT
    y[t] = tile[n - 1 - t];
}

extern "C" __global__ void barrier_divergence_fixed(const float *x, float *y, unsigned n) {
    __shared__ float tile[64];
    unsigned t = threadIdx.x;
    if (t < n) {
        tile[t] = x[t];
    }
    __syncthreads();
    if (t < n) {
        y[t] = tile[n - 1 - t];
    }
}
