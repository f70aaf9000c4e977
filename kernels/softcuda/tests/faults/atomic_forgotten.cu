// A histogram of two bins whose counts are added to without atomics.
// expects: shared memory race
extern "C" __global__ void atomic_forgotten(const float *x, float *y, unsigned n) {
    __shared__ unsigned bins[2];
    unsigned t = threadIdx.x;
    if (t < 2) {
        bins[t] = 0;
    }
    __syncthreads();
    if (t < n) {
        bins[x[t] > 10.0f] += 1; // FAULT
    }
    __syncthreads();
    if (t < 2) {
        y[t] = (float)bins[t];
    }
}

extern "C" __global__ void atomic_forgotten_fixed(const float *x, float *y, unsigned n) {
    __shared__ unsigned bins[2];
    unsigned t = threadIdx.x;
    if (t < 2) {
        bins[t] = 0;
    }
    __syncthreads();
    if (t < n) {
        atomicAdd(&bins[x[t] > 10.0f], 1u);
    }
    __syncthreads();
    if (t < 2) {
        y[t] = (float)bins[t];
    }
}
