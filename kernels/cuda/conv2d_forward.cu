// Convolution forward.  y = activation(x * filter + bias + residual): see conv2d.cuh for the shapes; bias [c_out],
// residual like y. Sums are f32 whatever the dtype.
//
//   conv2d_forward_<dtype>_naive                 one thread a result                            (read this first)
//   conv2d_forward_f32_register_tile_<tile>      implicit GEMM, channels read by float4
//   conv2d_forward_f32_register_tile_<tile>_any  the same, channels one by one: group_in no multiple of 4, as in a stem
//   conv2d_forward_<16 bits>_tensor_core_<tile>  implicit GEMM on tensor cores, channels by cp.async of 8
//   conv2d_forward_<16 bits>_tensor_core_<tile>_any
//
// <tile> is pixels x channels of y a block computes: 128 pixels x the 32, 64 or 128 that waste least of group_out.
// A thread decodes its pixels once; a slice of k costs it one division by multiplication for the tap (no table, no
// im2col). Naive does 2 loads a multiply-add; a 128 x 64 tile reads 2 * (128 + 64) elements for 2 * 128 * 64 of them.
//
// Limit: arithmetic, 2 pixels c_out taps group_in FLOPs; for 3 x 3 taps each x is read 9 times, from the caches after
// the first.

#include "conv2d.cuh"
#include "register_tile.cuh"
#include "tensor_core.cuh"

// gridDim.x * 256 threads: one a result, channels innermost.
template <class T>
__device__ void naive(const Conv& c, u32 relu, u64 count, const T* __restrict__ x, const T* __restrict__ filter,
                      const T* __restrict__ bias, const T* __restrict__ residual, T* __restrict__ y) {
    const u64 at = thread_index();
    if (at >= count) return;
    const u32 channels = c.groups * c.group_out, channels_x = c.groups * c.group_in;
    const u32 pixel = at / channels, co = at - static_cast<u64>(pixel) * channels;
    const u32 row = c.by_ow.quotient(pixel), image = c.by_oh.quotient(row);
    const int y0 = (row - image * c.oh) * c.stride[0] - c.padding[0];
    const int x0 = (pixel - row * c.ow) * c.stride[1] - c.padding[1];
    x += static_cast<u64>(image) * c.h * c.w * channels_x + co / c.group_out * c.group_in;
    const T* taps = filter + static_cast<u64>(co) * c.kh * c.kw * c.group_in;
    float sum = 0.0f;
    for (int ky = 0; ky < c.kh; ky++) {
        for (int kx = 0; kx < c.kw; kx++, taps += c.group_in) {
            const int iy = y0 + ky * c.dilation[0], ix = x0 + kx * c.dilation[1];
            if (iy < 0 || iy >= c.h || ix < 0 || ix >= c.w) continue;
            const T* pixel_x = x + static_cast<u64>(iy * c.w + ix) * channels_x;
            for (int ci = 0; ci < c.group_in; ci++) sum = fmaf(load(pixel_x[ci]), load(taps[ci]), sum);
        }
    }
    if (bias) sum += load(bias[co]);
    if (residual) sum += load(residual[at]);
    if (relu && sum <= 0.0f) sum = 0.0f;  // NaN stays
    y[at] = store<T>(sum);
}

// The operands and the result of this block's group.
template <class T>
struct Forward {
    GatheredPixels<T> a;
    RowsOfK<T> b;
    Output<T, PixelRows> out;

    __device__ Forward(const Gemm& g, const Gathered& c, const Block& block, u32 relu, const T* x, const T* filter,
                       const T* bias, const T* residual, T* y)
        : a{x + blockIdx.z * c.channels, c, c.y[0], c.x[0], g.m, block.k_end},
          b{filter + static_cast<u64>(blockIdx.z) * g.n * g.k, g.k, g.n, block.k_end},
          out{y,
              nullptr,
              bias ? bias + blockIdx.z * g.n : nullptr,
              residual,
              relu,
              {c, c.y[0], c.x[0], blockIdx.z * g.n}} {}
};

#define PARAMETERS(T)                                                                                                \
    const __grid_constant__ Gemm g, const __grid_constant__ Gathered c, u32 relu, const T *x, const T *filter,       \
        const T *bias, const T *residual, T *y

#define NAIVE(T)                                                                                                     \
    extern "C" __global__ void conv2d_forward_##T##_naive(const __grid_constant__ Conv c, u32 relu, u64 count,       \
                                                          const T* x, const T* filter, const T* bias,                \
                                                          const T* residual, T* y) {                                 \
        naive(c, relu, count, x, filter, bias, residual, y);                                                         \
    }
NAIVE(f32)
NAIVE(f16)
NAIVE(bf16)

#define REGISTER_TILE(name, BM, BN, BK, TM, TN, VECTOR)                                                              \
    extern "C" __global__ void __launch_bounds__(BM / TM*(BN / TN), 2)                                               \
        conv2d_forward_f32_register_tile_##name(PARAMETERS(float)) {                                                 \
        __shared__ RegisterTileShared<BM, BN, BK> shared;                                                            \
        const Block block = Block::of<BM, BN>(g);                                                                    \
        const Forward<float> f(g, c, block, relu, x, filter, bias, residual, y);                                     \
        register_tile<BM, BN, BK, TM, TN, VECTOR>(g, block, f.a, f.b, f.out, shared);                                \
    }
REGISTER_TILE(128x64, 128, 64, 8, 8, 8, true)
REGISTER_TILE(128x32, 128, 32, 16, 8, 4, true)
REGISTER_TILE(128x32_any, 128, 32, 16, 8, 4, false)

#define TENSOR_CORE(T, name, BM, BN, WM, WN, STAGES, VECTOR)                                                         \
    extern "C" __global__ void __launch_bounds__(WM* WN * 32, 2)                                                     \
        conv2d_forward_##T##_tensor_core_##name(PARAMETERS(T)) {                                                     \
        typedef TensorCoreTile<T, BM, BN, WM, WN, STAGES> Tile;                                                      \
        __shared__ alignas(128) unsigned char shared[Tile::BYTES];                                                   \
        const Block block = Block::of<BM, BN>(g);                                                                    \
        const Forward<T> f(g, c, block, relu, x, filter, bias, residual, y);                                         \
        tensor_core<T, Tile, VECTOR>(g, block, f.a, f.b, f.out, shared);                                             \
    }
#define TENSOR_CORES(T)                                                                                              \
    TENSOR_CORE(T, 128x128, 128, 128, 2, 4, 3, true)                                                                 \
    TENSOR_CORE(T, 128x64, 128, 64, 2, 2, 3, true)                                                                   \
    TENSOR_CORE(T, 128x32, 128, 32, 4, 1, 3, true)                                                                   \
    TENSOR_CORE(T, 128x32_any, 128, 32, 4, 1, 3, false)
TENSOR_CORES(f16)
TENSOR_CORES(bf16)
