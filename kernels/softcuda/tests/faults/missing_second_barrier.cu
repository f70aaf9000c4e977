// Sums of x over windows, tile by tile: a fast warp fills the next tile while a slow one still reads this one.
// expects: shared memory race; write after a read by thread; thread (32,0,0)
extern "C" __global__ void missing_second_barrier(const float *x, float *y, unsigned n) {
    __shared__ float tile[64];
    unsigned t = threadIdx.x;
    float sum = 0.0f;
    for (unsigned start = 0; start < n; start += 64) {
        tile[t] = start + t < n ? x[start + t] : 0.0f; // FAULT
        __syncthreads();
#pragma unroll 1
        for (unsigned k = 0; k < 64; k++) {
            sum += tile[(t + k) % 64] * (float)k;
        }
    }
    y[t] = sum;
}

extern "C" __global__ void missing_second_barrier_fixed(const float *x, float *y, unsigned n) {
    __shared__ float tile[64];
    unsigned t = threadIdx.x;
    float sum = 0.0f;
    for (unsigned start = 0; start < n; start += 64) {
        tile[t] = start + t < n ? x[start + t] : 0.0f;
        __syncthreads();
#pragma unroll 1
        for (unsigned k = 0; k < 64; k++) {
            sum += tile[(t + k) % 64] * (float)k;
        }
        __syncthreads();
    }
    y[t] = sum;
}
