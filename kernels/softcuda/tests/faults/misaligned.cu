// Four numbers at once, but the first is not where a vector may begin.
// expects: misaligned: read of 16 bytes of global memory; 0004; thread (0,0,0)
struct alignas(16) Four {
    float a, b, c, d;
};

extern "C" __global__ void misaligned(const float *x, float *y, unsigned n) {
    unsigned i = threadIdx.x;
    if (4 * i + 4 < n) {
        Four four = *(const Four *)(x + 4 * i + 1); // FAULT
        y[i] = four.a + four.b + four.c + four.d;
    }
}

extern "C" __global__ void misaligned_fixed(const float *x, float *y, unsigned n) {
    unsigned i = threadIdx.x;
    if (4 * i + 4 < n) {
        Four four = *(const Four *)(x + 4 * i);
        y[i] = four.a + four.b + four.c + four.d;
    }
}
