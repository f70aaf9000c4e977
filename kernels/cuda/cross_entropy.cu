// Cross-entropy of logits with labels or probabilities.  logits, probabilities, dlogits: [rows, len]; labels, loss,
// log_sum_exp, dloss: [rows], the last three in f32 whatever the dtype of the logits.
//
// With the targets t (1 at the label) smoothed to t' = keep t + floor, z = x - max x and L = ln Σ exp(z):
//
//   cross_entropy_forward_<dtype>_{labels,soft}_warp    loss = Σ t' (L - z), log_sum_exp = max x + L
//   cross_entropy_backward_<dtype>_{labels,soft}_warp   dlogits = (p Σ t' - t') dloss, p = exp(x - log_sum_exp)
//
// A term with t' = 0 is left out: a class that is ruled out (logit -inf) costs nothing when it is not wanted. One
// warp a row, as in softmax.cu. A label outside 0..len is noted in `bad` (see args.cuh), and its row's results are
// NaN.

#include "args.cuh"
#include "half.cuh"
#include "reduce.cuh"

// The targets of one row.
template <class T>
struct Labels {
    typedef int Element;
    int label;

    static __device__ Labels of(const int* labels, u64 row, u64) { return {labels[row]}; }
    __device__ float at(u64 i) const { return i == label ? 1.0f : 0.0f; }
    __device__ float total(u64, float, float) const { return 1.0f; }

    __device__ bool is_valid(u64 row, u64 len, u64* bad) const {
        if (label >= 0 && label < len) return true;
        if (threadIdx.x == 0) note_bad_index(bad, row, label);
        return false;
    }
};

template <class T>
struct Soft {
    typedef T Element;
    const T* probabilities;

    static __device__ Soft of(const T* targets, u64 row, u64 len) { return {targets + row * len}; }
    __device__ float at(u64 i) const { return load(probabilities[i]); }
    __device__ bool is_valid(u64, u64, u64*) const { return true; }

    // Σ t': whatever it is.
    __device__ float total(u64 len, float keep, float floor) const {
        float v = 0.0f;
        for (u64 i = threadIdx.x; i < len; i += 32) v += keep * at(i) + floor;
        return warp_reduce<Sum>(v);
    }
};

template <class Targets, class T>
__device__ void forward(u64 rows, u64 len, float keep, float floor, const T* __restrict__ x,
                        const typename Targets::Element* __restrict__ all_targets, float* __restrict__ loss,
                        float* __restrict__ log_sum_exp, u64* bad) {
    const u64 row = static_cast<u64>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;  // whole warps leave together
    const Targets targets = Targets::of(all_targets, row, len);
    const bool valid = targets.is_valid(row, len, bad);
    x += row * len;
    float max = Max::identity();
    for (u64 i = threadIdx.x; i < len; i += 32) max = Max::combine(max, load(x[i]));
    max = warp_reduce<Max>(max);
    float sum = 0.0f;
    for (u64 i = threadIdx.x; i < len; i += 32) sum += expf(load(x[i]) - max);
    const float log_sum = logf(warp_reduce<Sum>(sum));
    float total = 0.0f;
    for (u64 i = threadIdx.x; i < len; i += 32) {
        const float target = keep * targets.at(i) + floor;
        if (target != 0.0f) total += target * (log_sum - (load(x[i]) - max));
    }
    total = warp_reduce<Sum>(total);
    if (threadIdx.x > 0) return;
    const float nan = __int_as_float(0x7fffffff);
    loss[row] = valid ? total : nan;
    log_sum_exp[row] = valid ? max + log_sum : nan;
}

template <class Targets, class T>
__device__ void backward(u64 rows, u64 len, float keep, float floor, const T* __restrict__ x,
                         const typename Targets::Element* __restrict__ all_targets,
                         const float* __restrict__ log_sum_exp, const float* __restrict__ dloss, T* __restrict__ dx,
                         u64* bad) {
    const u64 row = static_cast<u64>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const Targets targets = Targets::of(all_targets, row, len);
    targets.is_valid(row, len, bad);  // an invalid row has log_sum_exp NaN, and so NaN as gradient
    x += row * len;
    dx += row * len;
    const float lse = log_sum_exp[row], g = dloss[row];
    const float total = targets.total(len, keep, floor);
    for (u64 i = threadIdx.x; i < len; i += 32) {
        const float p = expf(load(x[i]) - lse);
        dx[i] = store<T>((p * total - (keep * targets.at(i) + floor)) * g);
    }
}

#define CROSS_ENTROPY(T, kind, Targets)                                                                              \
    extern "C" __global__ void cross_entropy_forward_##T##_##kind##_warp(                                            \
        u64 rows, u64 len, float keep, float floor, const T* logits, const Targets<T>::Element* targets,             \
        float* loss, float* log_sum_exp, u64* bad) {                                                                 \
        forward<Targets<T>, T>(rows, len, keep, floor, logits, targets, loss, log_sum_exp, bad);                     \
    }                                                                                                                \
    extern "C" __global__ void cross_entropy_backward_##T##_##kind##_warp(                                           \
        u64 rows, u64 len, float keep, float floor, const T* logits, const Targets<T>::Element* targets,             \
        const float* log_sum_exp, const float* dloss, T* dlogits, u64* bad) {                                        \
        backward<Targets<T>, T>(rows, len, keep, floor, logits, targets, log_sum_exp, dloss, dlogits, bad);          \
    }
#define CROSS_ENTROPY_KINDS(T) CROSS_ENTROPY(T, labels, Labels) CROSS_ENTROPY(T, soft, Soft)

CROSS_ENTROPY_KINDS(f32) CROSS_ENTROPY_KINDS(f16) CROSS_ENTROPY_KINDS(bf16)
