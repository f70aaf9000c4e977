// The kernel is right; the host has freed x.
// expects: use after free: read of 4 bytes; at byte 0 of the freed allocation of 256 bytes; thread (0,0,0)
extern "C" __global__ void use_after_free(const float *x, float *y, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        y[i] = 2.0f * x[i]; // FAULT
    }
}
