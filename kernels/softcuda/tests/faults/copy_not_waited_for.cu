// An asynchronous copy into shared memory, which is read before the wait for it.
// expects: shared memory race; read after a write by a cp.async that was not waited for
extern "C" __global__ void copy_not_waited_for(const float *x, float *y, unsigned n) {
    __shared__ float tile[64];
    unsigned t = threadIdx.x;
    unsigned to = (unsigned)__cvta_generic_to_shared(&tile[t]);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\ncp.async.commit_group;" ::"r"(to), "l"(x + t) : "memory");
    __syncthreads();
    y[t] = tile[n - 1 - t]; // FAULT
}

extern "C" __global__ void copy_not_waited_for_fixed(const float *x, float *y, unsigned n) {
    __shared__ float tile[64];
    unsigned t = threadIdx.x;
    unsigned to = (unsigned)__cvta_generic_to_shared(&tile[t]);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\ncp.async.commit_group;" ::"r"(to), "l"(x + t) : "memory");
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    y[t] = tile[n - 1 - t];
}
