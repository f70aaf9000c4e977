// The launch gives no dynamic shared memory.
// expects: out of bounds: write of 4 bytes of shared memory at 0x0: there are 0 bytes; thread (0,0,0)
extern __shared__ float dynamic[];

extern "C" __global__ void dynamic_shared_missing(const float *x, float *y, unsigned n) {
    unsigned t = threadIdx.x;
    dynamic[t] = x[t]; // FAULT
    __syncthreads();
    y[t] = dynamic[n - 1 - t];
}
