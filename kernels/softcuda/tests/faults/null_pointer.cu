// An optional buffer that was not given, and is read all the same.
// expects: out of bounds: read of 4 bytes of global memory at 0x0: no allocation is near; thread (0,0,0)
extern "C" __global__ void null_pointer(const float *x, float *y, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        y[i] = x[i]; // FAULT
    }
}
