// The lanes of a short last row shuffle among themselves, but one reads from a lane that is not among them.
// expects: shfl reads a lane that does not take part; thread (4,0,0)
extern "C" __global__ void shuffle_from_outside(const float *x, float *y, unsigned n) {
    unsigned t = threadIdx.x;
    if (t < 8) {
        y[t] = __shfl_down_sync(0x000000ff, x[t % n], 4); // FAULT
    }
}
