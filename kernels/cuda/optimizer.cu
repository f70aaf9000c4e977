// Parameter updates, many tensors in one launch. The formulas are in kernels/src/reference/optimizer.rs.
//
//   sgd_plain_<dtype>_fused      p -= lr g,                 g = scale gradient + weight_decay p
//   sgd_momentum_<dtype>_fused   v = momentum v + fresh g,  p -= lr (g + momentum v if nesterov, else v)
//   adamw_<dtype>_fused          m = beta1 m + fresh1 g,    v = beta2 v + fresh2 g²,   g = scale gradient,
//                                p = keep p - lr (m / correction1) / (sqrt(v / correction2) + epsilon)
//
// A model has a few large tensors and many small ones: a launch for each would cost more than the work. The table of
// up to 48 tensors is a kernel argument; block b works on the tensor i with first_block[i] <= b < first_block[i + 1].
// `scale` is one float on the device, or null for 1: the host need not know it. State has the parameter's dtype.
// Limit: memory; 3 (plain) to 7 (AdamW) tensors.

#include "args.cuh"
#include "half.cuh"

enum { BLOCK_ELEMENTS = 1024 };  // of 256 threads

enum { MAX_TENSORS = 48 };

// `Tensors` in kernels/src/cuda/optimizer.rs has the same layout.
struct Tensors {
    u64 count;
    u64 first_block[MAX_TENSORS + 1];
    u64 len[MAX_TENSORS];
    u64 parameter[MAX_TENSORS];
    u64 gradient[MAX_TENSORS];
    u64 state0[MAX_TENSORS];
    u64 state1[MAX_TENSORS];
};

// The tensor of this block: the last one whose first block is not after it.
__device__ inline u64 tensor_of_block(const Tensors& all) {
    u64 low = 0, high = all.count;  // first_block[low] <= block < first_block[high]
#pragma unroll 1
    while (high - low > 1) {
        const u64 middle = (low + high) / 2;
        if (all.first_block[middle] <= blockIdx.x) low = middle;
        else high = middle;
    }
    return low;
}

// Calls update(i) for this thread's elements of tensor t.
template <class Update>
__device__ void for_each_element(const Tensors& all, u64 t, const Update& update) {
    const u64 start = (blockIdx.x - all.first_block[t]) * BLOCK_ELEMENTS;
    const u64 end = min(start + BLOCK_ELEMENTS, all.len[t]);
    for (u64 i = start + threadIdx.x; i < end; i += blockDim.x) update(i);
}

// `Sgd` in kernels/src/cuda/optimizer.rs has the same layout.
struct Sgd {
    float lr, momentum, fresh, weight_decay;
    u32 nesterov;
};

template <class T>
__device__ void sgd_plain(const Tensors& all, const Sgd& sgd, const float* scale_at) {
    const float scale = scale_at ? *scale_at : 1.0f;
    const u64 t = tensor_of_block(all);
    T* p = reinterpret_cast<T*>(all.parameter[t]);
    const T* gradient = reinterpret_cast<const T*>(all.gradient[t]);
    for_each_element(all, t, [&](u64 i) {
        const float old = load(p[i]);
        const float g = fmaf(sgd.weight_decay, old, scale * load(gradient[i]));
        p[i] = store<T>(fmaf(-sgd.lr, g, old));
    });
}

template <class T>
__device__ void sgd_momentum(const Tensors& all, const Sgd& sgd, const float* scale_at) {
    const float scale = scale_at ? *scale_at : 1.0f;
    const u64 t = tensor_of_block(all);
    T* p = reinterpret_cast<T*>(all.parameter[t]);
    T* velocity = reinterpret_cast<T*>(all.state0[t]);
    const T* gradient = reinterpret_cast<const T*>(all.gradient[t]);
    for_each_element(all, t, [&](u64 i) {
        const float old = load(p[i]);
        const float g = fmaf(sgd.weight_decay, old, scale * load(gradient[i]));
        const float v = fmaf(sgd.momentum, load(velocity[i]), sgd.fresh * g);
        const float step = sgd.nesterov ? fmaf(sgd.momentum, v, g) : v;
        velocity[i] = store<T>(v);
        p[i] = store<T>(fmaf(-sgd.lr, step, old));
    });
}

// `AdamW` in kernels/src/cuda/optimizer.rs has the same layout.
struct AdamW {
    float lr, keep, beta1, beta2, fresh1, fresh2, correction1, correction2, epsilon;
};

template <class T>
__device__ void adamw(const Tensors& all, const AdamW& a, const float* scale_at) {
    const float scale = scale_at ? *scale_at : 1.0f;
    const u64 t = tensor_of_block(all);
    T* p = reinterpret_cast<T*>(all.parameter[t]);
    T* first = reinterpret_cast<T*>(all.state0[t]);
    T* second = reinterpret_cast<T*>(all.state1[t]);
    const T* gradient = reinterpret_cast<const T*>(all.gradient[t]);
    for_each_element(all, t, [&](u64 i) {
        const float g = scale * load(gradient[i]);
        const float m = fmaf(a.beta1, load(first[i]), a.fresh1 * g);
        const float v = fmaf(a.beta2, load(second[i]), a.fresh2 * g * g);
        const float step = (m / a.correction1) / (sqrtf(v / a.correction2) + a.epsilon);
        first[i] = store<T>(m);
        second[i] = store<T>(v);
        p[i] = store<T>(fmaf(-a.lr, step, a.keep * load(p[i])));
    });
}

#define OPTIMIZERS(T)                                                                                                \
    extern "C" __global__ void sgd_plain_##T##_fused(const __grid_constant__ Tensors all,                            \
                                                     const __grid_constant__ Sgd sgd, const float* scale) {          \
        sgd_plain<T>(all, sgd, scale);                                                                               \
    }                                                                                                                \
    extern "C" __global__ void sgd_momentum_##T##_fused(const __grid_constant__ Tensors all,                         \
                                                        const __grid_constant__ Sgd sgd, const float* scale) {       \
        sgd_momentum<T>(all, sgd, scale);                                                                            \
    }                                                                                                                \
    extern "C" __global__ void adamw_##T##_fused(const __grid_constant__ Tensors all,                                \
                                                 const __grid_constant__ AdamW a, const float* scale) {              \
        adamw<T>(all, a, scale);                                                                                     \
    }
OPTIMIZERS(f32) OPTIMIZERS(f16) OPTIMIZERS(bf16)
