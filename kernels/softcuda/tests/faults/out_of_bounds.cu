// The last element has no right neighbour, but reads it.
// expects: out of bounds: read of 4 bytes of global memory; 0 bytes past the end of the allocation; thread (63,0,0)
extern "C" __global__ void out_of_bounds(const float *x, float *y, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        y[i] = x[i + 1] - x[i]; // FAULT
    }
}

extern "C" __global__ void out_of_bounds_fixed(const float *x, float *y, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        y[i] = (i + 1 < n ? x[i + 1] : 0.0f) - x[i];
    }
}
