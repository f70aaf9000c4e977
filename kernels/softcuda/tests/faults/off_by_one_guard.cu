// The guard lets one thread too many in.
// expects: out of bounds: write of 4 bytes of global memory; 0 bytes past the end of the allocation; thread (48,0,0)
extern "C" __global__ void off_by_one_guard(const float *x, float *y, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i > n) {
        return;
    }
    y[i] = x[0] * (float)i; // FAULT
}

extern "C" __global__ void off_by_one_guard_fixed(const float *x, float *y, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) {
        return;
    }
    y[i] = x[0] * (float)i;
}
