// Adds to a sum that nobody has set to zero.
// expects: uninitialised: read of 4 bytes of global memory; at byte 0 of the allocation of 256 bytes; thread (0,0,0)
extern "C" __global__ void uninitialised_global(const float *x, float *y, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        y[i] += x[i]; // FAULT
    }
}

extern "C" __global__ void uninitialised_global_fixed(const float *x, float *y, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        y[i] = x[i];
    }
}
