// Transposes a matrix of 4 rows and n / 4 columns, but strides through x by the rows of the result.
// expects: out of bounds: read of 4 bytes of global memory; past the end of the allocation of 160 bytes
extern "C" __global__ void transposed_stride(const float *x, float *y, unsigned n) {
    unsigned rows = 4, columns = n / rows, t = threadIdx.x;
    if (t < n) {
        unsigned row = t % rows, column = t / rows;
        y[t] = x[row * columns + column * rows]; // FAULT
    }
}

extern "C" __global__ void transposed_stride_fixed(const float *x, float *y, unsigned n) {
    unsigned rows = 4, columns = n / rows, t = threadIdx.x;
    if (t < n) {
        unsigned row = t % rows, column = t / rows;
        y[t] = x[row * columns + column];
    }
}
