// Batch normalisation.  x, y, dy, dx, residual, dresidual: [rows, c]; all else a value a channel, of x's dtype or f32.
//
//   y = activation(gamma (x - mean) / sqrt(var + epsilon) + beta + residual)
//
// Forward reads x twice and backward reads its inputs twice, which is the least that can be done, since every result
// of the second pass depends on sums over all rows:
//
//   batch_norm_statistics_<dtype>_<width>       pass 1: Σ d, Σ d² with d = x - shift, a block of rows each
//   batch_norm_combine_statistics_f32           [blocks] partial sums to mean and var
//   batch_norm_apply_<dtype>_<width>            pass 2: y
//   batch_norm_gradient_sums_<dtype>_<width>    pass 1: Σ g, Σ g (x - mean), a block of rows each; dresidual = g
//   batch_norm_combine_gradients_<dtype>        [blocks] partial sums to dbeta, dgamma
//   batch_norm_dx_<dtype>_<width>               pass 2: dx
//   batch_norm_update_running_<dtype>           running statistics
//
// g is dy where y is positive, everywhere without an activation. Channels are innermost: blockDim = (tx, ty), a thread
// keeps `width` neighbouring channels (16 bytes; 1 where c is no multiple) and walks down rows ty apart, so a warp
// reads whole lines and per-channel values stay in registers. Sums: a thread's rows in order, the ty threads as a
// tree, the blocks of rows (cut by sizes alone) in order: the same bits on every run. Statistics are f32, combined in
// f64.
//
// Limit: memory, 3 (forward) and 5 (backward, no residual, no activation) transfers of the tensor.

#include "args.cuh"
#include "half.cuh"

// The host's side is `Layout::params` in kernels/src/cuda/batch_norm.rs.
struct Norm {
    u64 rows, c;
    u64 block_rows;  // rows of a block
    u64 blocks;      // of rows
    u32 f32_channels;  // which per-channel arrays are f32, a bit each: see GAMMA ..
    u32 relu;
    float epsilon;
    u32 training;
};

enum : u32 { GAMMA = 1, BETA = 2, MEAN = 4, VAR = 8 };

enum { THREADS = 256, STATISTICS = 3, GRADIENTS = 2 };

template <class T>
__device__ float channel_value(const Norm& n, u32 which, const void* x, u64 c) {
    if (n.f32_channels & which) return static_cast<const float*>(x)[c];
    return load(static_cast<const T*>(x)[c]);
}

template <class T>
__device__ void set_channel_value(const Norm& n, u32 which, void* x, u64 c, float v) {
    if (n.f32_channels & which) {
        static_cast<float*>(x)[c] = v;
    } else {
        static_cast<T*>(x)[c] = store<T>(v);
    }
}

__device__ inline float inverse_deviation(const Norm& n, float var) {
    return 1.0f / sqrtf(var + n.epsilon);
}

// The rows and channels of this thread: rows begin + threadIdx.y, then every blockDim.y-th up to end. gridDim =
// (channels, blocks of rows).
template <int V>
struct Position {
    u64 channel, begin, end;

    static __device__ Position of(const Norm& n) {
        const u64 channel = (static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
        const u64 begin = blockIdx.y * n.block_rows;
        return {channel, begin, min(n.rows, begin + n.block_rows)};
    }
};

// Adds up the sums of the threads of one column of the block, as a tree; threads with threadIdx.y 0 get the totals.
// blockDim.x is a power of two, and so blockDim.y = THREADS / blockDim.x.
template <int N>
__device__ void sum_over_block(float (&sums)[N]) {
    __shared__ float shared[N][THREADS];
    const u32 at = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
    for (int i = 0; i < N; i++) shared[i][at] = sums[i];
    for (u32 half = blockDim.y / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half) {
#pragma unroll
            for (int i = 0; i < N; i++) {
                sums[i] += shared[i][at + half * blockDim.x];
                shared[i][at] = sums[i];
            }
        }
    }
}

// partials: [blocks, STATISTICS, c]: Σ d, Σ d² and the shift, the block's first row. So squares do not cancel where
// the mean is large against the deviation.
template <int V, class T>
__device__ void statistics(const Norm& n, const T* __restrict__ x, float* __restrict__ partials) {
    const Position<V> p = Position<V>::of(n);
    float sums[2 * V] = {}, shift[V] = {};
    if (p.channel < n.c) {
        const Vector<T, V> first = load_vector<V>(x + p.begin * n.c + p.channel);
#pragma unroll
        for (int e = 0; e < V; e++) shift[e] = load(first.at[e]);
#pragma unroll 4
        for (u64 row = p.begin + threadIdx.y; row < p.end; row += blockDim.y) {
            const Vector<T, V> v = load_vector<V>(x + row * n.c + p.channel);
#pragma unroll
            for (int e = 0; e < V; e++) {
                const float d = load(v.at[e]) - shift[e];
                sums[e] += d;
                sums[V + e] = fmaf(d, d, sums[V + e]);
            }
        }
    }
    sum_over_block(sums);
    if (threadIdx.y > 0 || p.channel >= n.c) return;
    float* out = partials + blockIdx.y * STATISTICS * n.c + p.channel;
#pragma unroll
    for (int e = 0; e < V; e++) {
        out[e] = sums[e];
        out[n.c + e] = sums[V + e];
        out[2 * n.c + e] = shift[e];
    }
}

// Sum over threadIdx.y, as a tree, for all of blockDim = (32, 32).
__device__ inline double sum_of_column(double v, double (&shared)[32][32]) {
    shared[threadIdx.y][threadIdx.x] = v;
    for (u32 half = 16; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half) shared[threadIdx.y][threadIdx.x] += shared[threadIdx.y + half][threadIdx.x];
    }
    __syncthreads();
    const double sum = shared[0][threadIdx.x];
    __syncthreads();
    return sum;
}

// Block t of n_t rows with mean m_t contributes Σ d² - (Σ d)² / n_t + n_t (m_t - mean)² to Σ (x - mean)² (Chan, Golub
// and LeVeque 1983). blockDim = (32, 32): 32 channels, 32 rows of threads that each take every 32nd block.
extern "C" __global__ void __launch_bounds__(1024)
    batch_norm_combine_statistics_f32(const __grid_constant__ Norm n, const float* __restrict__ partials,
                                      float* __restrict__ mean, float* __restrict__ var) {
    __shared__ double shared[32][32];
    const u64 c = static_cast<u64>(blockIdx.x) * 32 + threadIdx.x;
    const u64 end = c < n.c ? n.blocks : 0;
    double total = 0.0;
    for (u64 t = threadIdx.y; t < end; t += 32) {
        const float* of = partials + t * STATISTICS * n.c + c;
        const double rows = min(n.block_rows, n.rows - t * n.block_rows);
        total += of[0] + rows * of[2 * n.c];
    }
    const double m = sum_of_column(total, shared) / n.rows;
    double squares = 0.0;
    for (u64 t = threadIdx.y; t < end; t += 32) {
        const float* of = partials + t * STATISTICS * n.c + c;
        const double rows = min(n.block_rows, n.rows - t * n.block_rows), first = of[0];
        const double own = of[n.c] - first * first / rows, off = of[2 * n.c] + first / rows - m;
        squares += (own < 0.0 ? 0.0 : own) + rows * off * off;  // rounding must not make it negative; NaN stays
    }
    squares = sum_of_column(squares, shared);
    if (threadIdx.y > 0 || c >= n.c) return;
    mean[c] = static_cast<float>(m);
    var[c] = static_cast<float>(squares / n.rows);
}

template <int V, class T>
__device__ void apply(const Norm& n, const T* __restrict__ x, const void* gamma, const void* beta, const void* mean,
                      const void* var, const T* __restrict__ residual, T* __restrict__ y) {
    const Position<V> p = Position<V>::of(n);
    if (p.channel >= n.c) return;
    float centre[V], scale[V], shift[V];
#pragma unroll
    for (int e = 0; e < V; e++) {
        centre[e] = channel_value<T>(n, MEAN, mean, p.channel + e);
        scale[e] = channel_value<T>(n, GAMMA, gamma, p.channel + e) *
                   inverse_deviation(n, channel_value<T>(n, VAR, var, p.channel + e));
        shift[e] = channel_value<T>(n, BETA, beta, p.channel + e);
    }
#pragma unroll 2
    for (u64 row = p.begin + threadIdx.y; row < p.end; row += blockDim.y) {
        const u64 at = row * n.c + p.channel;
        const Vector<T, V> in = load_vector<V>(x + at);
        Vector<T, V> added = {}, out;
        if (residual) added = load_vector<V>(residual + at);
#pragma unroll
        for (int e = 0; e < V; e++) {
            float v = fmaf(load(in.at[e]) - centre[e], scale[e], shift[e]);
            if (residual) v += load(added.at[e]);
            if (n.relu && v <= 0.0f) v = 0.0f;  // NaN stays
            out.at[e] = store<T>(v);
        }
        store_vector<V>(y + at, out);
    }
}

// The gradient before the activation; y is null where there is none.
template <int V, class T>
__device__ Vector<T, V> before_activation(const T* __restrict__ y, const T* __restrict__ dy, u64 at) {
    Vector<T, V> g = load_vector<V>(dy + at);
    if (y) {
        const Vector<T, V> out = load_vector<V>(y + at);
#pragma unroll
        for (int e = 0; e < V; e++) {
            if (load(out.at[e]) <= 0.0f) g.at[e] = T{};
        }
    }
    return g;
}

// partials: [blocks, GRADIENTS, c]: Σ g and Σ g (x - mean). dresidual may be null.
template <int V, class T>
__device__ void gradient_sums(const Norm& n, const T* __restrict__ x, const T* __restrict__ y, const void* mean,
                              const T* __restrict__ dy, T* __restrict__ dresidual, float* __restrict__ partials) {
    const Position<V> p = Position<V>::of(n);
    float sums[2 * V] = {};
    if (p.channel < n.c) {
        float centre[V];
#pragma unroll
        for (int e = 0; e < V; e++) centre[e] = channel_value<T>(n, MEAN, mean, p.channel + e);
#pragma unroll 2
        for (u64 row = p.begin + threadIdx.y; row < p.end; row += blockDim.y) {
            const u64 at = row * n.c + p.channel;
            const Vector<T, V> g = before_activation<V>(y, dy, at), v = load_vector<V>(x + at);
            if (dresidual) store_vector<V>(dresidual + at, g);
#pragma unroll
            for (int e = 0; e < V; e++) {
                sums[e] += load(g.at[e]);
                sums[V + e] = fmaf(load(g.at[e]), load(v.at[e]) - centre[e], sums[V + e]);
            }
        }
    }
    sum_over_block(sums);
    if (threadIdx.y > 0 || p.channel >= n.c) return;
    float* out = partials + blockIdx.y * GRADIENTS * n.c + p.channel;
#pragma unroll
    for (int e = 0; e < V; e++) {
        out[e] = sums[e];
        out[n.c + e] = sums[V + e];
    }
}

// dbeta = Σ g, dgamma = Σ g (x - mean) / sqrt(var + epsilon): to the caller, as gamma is, and to sums [GRADIENTS, c]
// in f32. blockDim = (32, 32), as in combine_statistics.
template <class T>
__device__ void combine_gradients(const Norm& n, const float* __restrict__ partials, const void* var, void* dgamma,
                                  void* dbeta, float* __restrict__ sums) {
    __shared__ double shared[32][32];
    const u64 c = static_cast<u64>(blockIdx.x) * 32 + threadIdx.x;
    const u64 end = c < n.c ? n.blocks : 0;
    double first = 0.0, second = 0.0;
    for (u64 t = threadIdx.y; t < end; t += 32) {
        first += partials[t * GRADIENTS * n.c + c];
        second += partials[(t * GRADIENTS + 1) * n.c + c];
    }
    first = sum_of_column(first, shared);
    second = sum_of_column(second, shared);
    if (threadIdx.y > 0 || c >= n.c) return;
    const float of_beta = static_cast<float>(first);
    const float of_gamma = static_cast<float>(second) * inverse_deviation(n, channel_value<T>(n, VAR, var, c));
    sums[c] = of_beta;
    sums[n.c + c] = of_gamma;
    set_channel_value<T>(n, GAMMA, dbeta, c, of_beta);
    set_channel_value<T>(n, GAMMA, dgamma, c, of_gamma);
}

// dx = gamma / σ (g - (dbeta + x̂ dgamma) / rows), without the sums when the statistics were given: as slope g + scale
// (x - mean) + shift. y is null where dy is the gradient before the activation already.
template <int V, class T>
__device__ void dx_of(const Norm& n, const T* __restrict__ x, const T* __restrict__ y, const void* gamma,
                      const void* mean, const void* var, const T* __restrict__ dy, const float* __restrict__ sums,
                      T* __restrict__ dx) {
    const Position<V> p = Position<V>::of(n);
    if (p.channel >= n.c) return;
    const float per_row = n.training ? 1.0f / n.rows : 0.0f;
    float centre[V], slope[V], scale[V], shift[V];
#pragma unroll
    for (int e = 0; e < V; e++) {
        const u64 c = p.channel + e;
        const float inverse = inverse_deviation(n, channel_value<T>(n, VAR, var, c));
        centre[e] = channel_value<T>(n, MEAN, mean, c);
        slope[e] = channel_value<T>(n, GAMMA, gamma, c) * inverse;
        shift[e] = n.training ? -slope[e] * (sums[c] * per_row) : 0.0f;
        scale[e] = n.training ? -slope[e] * inverse * (sums[n.c + c] * per_row) : 0.0f;
    }
#pragma unroll 2
    for (u64 row = p.begin + threadIdx.y; row < p.end; row += blockDim.y) {
        const u64 at = row * n.c + p.channel;
        const Vector<T, V> g = before_activation<V>(y, dy, at);
        Vector<T, V> in = {}, out;
        if (n.training) in = load_vector<V>(x + at);
#pragma unroll
        for (int e = 0; e < V; e++) {
            const float rest = n.training ? fmaf(scale[e], load(in.at[e]) - centre[e], shift[e]) : 0.0f;
            out.at[e] = store<T>(fmaf(slope[e], load(g.at[e]), rest));
        }
        store_vector<V>(dx + at, out);
    }
}

// running = keep running + take batch, the variance times `unbiased`. The bits of Norm::f32_channels: GAMMA the running
// mean, BETA the running variance, MEAN and VAR those of the batch.
template <class T>
__device__ void update_running(const Norm& n, float keep, float take, float unbiased, void* running_mean,
                               void* running_var, const void* mean, const void* var) {
    const u64 c = thread_index();
    if (c >= n.c) return;
    const float m = channel_value<T>(n, MEAN, mean, c), v = channel_value<T>(n, VAR, var, c);
    const float old_m = channel_value<T>(n, GAMMA, running_mean, c), old_v = channel_value<T>(n, BETA, running_var, c);
    set_channel_value<T>(n, GAMMA, running_mean, c, keep * old_m + take * m);
    set_channel_value<T>(n, BETA, running_var, c, keep * old_v + take * (unbiased * v));
}

#define WIDTH(T, V, name)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                            \
        batch_norm_statistics_##T##_##name(const __grid_constant__ Norm n, const T* x, float* partials) {            \
        statistics<V>(n, x, partials);                                                                               \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                            \
        batch_norm_apply_##T##_##name(const __grid_constant__ Norm n, const T* x, const void* gamma,                 \
                                      const void* beta, const void* mean, const void* var, const T* residual, T* y) { \
        apply<V>(n, x, gamma, beta, mean, var, residual, y);                                                         \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                            \
        batch_norm_gradient_sums_##T##_##name(const __grid_constant__ Norm n, const T* x, const T* y,                \
                                              const void* mean, const T* dy, T* dresidual, float* partials) {        \
        gradient_sums<V>(n, x, y, mean, dy, dresidual, partials);                                                    \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                            \
        batch_norm_dx_##T##_##name(const __grid_constant__ Norm n, const T* x, const T* y, const void* gamma,        \
                                   const void* mean, const void* var, const T* dy, const float* sums, T* dx) {       \
        dx_of<V>(n, x, y, gamma, mean, var, dy, sums, dx);                                                           \
    }
#define DTYPE(T, V)                                                                                                  \
    WIDTH(T, V, vector)                                                                                              \
    WIDTH(T, 1, scalar)                                                                                              \
    extern "C" __global__ void __launch_bounds__(1024)                                                               \
        batch_norm_combine_gradients_##T(const __grid_constant__ Norm n, const float* partials, const void* var,     \
                                         void* dgamma, void* dbeta, float* sums) {                                   \
        combine_gradients<T>(n, partials, var, dgamma, dbeta, sums);                                                 \
    }                                                                                                                \
    extern "C" __global__ void batch_norm_update_running_##T(const __grid_constant__ Norm n, float keep, float take, \
                                                             float unbiased, void* running_mean, void* running_var,  \
                                                             const void* mean, const void* var) {                    \
        update_running<T>(n, keep, take, unbiased, running_mean, running_var, mean, var);                            \
    }
DTYPE(f32, 4)
DTYPE(f16, 8)
DTYPE(bf16, 8)
