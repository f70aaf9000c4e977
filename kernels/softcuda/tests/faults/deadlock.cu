// Each half of a warp waits for the whole warp at a shuffle of its own.
// expects: deadlock: no thread can go on; (deadlock.cu:7); (deadlock.cu:9)
extern "C" __global__ void deadlock(const float *x, float *y, unsigned n) {
    unsigned t = threadIdx.x;
    float value = x[t % n];
    if (t % 32 < 16) {
        value += __shfl_xor_sync(0xffffffff, value, 8); // FAULT
    } else {
        value -= __shfl_up_sync(0xffffffff, value, 4);
    }
    y[t] = value;
}

extern "C" __global__ void deadlock_fixed(const float *x, float *y, unsigned n) {
    unsigned t = threadIdx.x;
    float value = x[t % n];
    float low = __shfl_xor_sync(0xffffffff, value, 8), high = __shfl_up_sync(0xffffffff, value, 4);
    y[t] = t % 32 < 16 ? value + low : value - high;
}
