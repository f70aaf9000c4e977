// The kernel is right; the host never frees a buffer that it allocated for it.
// expects: leak: 256 bytes
extern "C" __global__ void leak(const float *x, float *y, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        y[i] = x[i];
    }
}
