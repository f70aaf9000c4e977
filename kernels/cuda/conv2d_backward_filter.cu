// Convolution backward, the gradient of the filter.  dfilter[co, ky, kx, ci] = Σ dy[image, oy, ox, co] x[image, iy,
// ix, ci] over all pixels (image, oy, ox) of y, with iy = oy * stride + ky * dilation - padding, and so for x. Shapes:
// conv2d.cuh.
//
//   conv2d_backward_filter_<dtype>_naive                 one thread an element and split (read this first)
//   conv2d_backward_filter_f32_register_tile_<tile>      implicit GEMM, dy and x by float4
//   conv2d_backward_filter_<16 bits>_tensor_core_<tile>  the same on tensor cores, by cp.async of 8
//   ..._any                                              channels one by one
//   conv2d_backward_filter_<dtype>_split_sum             adds the splits, in order
//
// <tile> is filters x (tap, channel)s. The sum is long (all pixels of a batch) and its results are few (16 x 144 for a
// narrow layer: one tile), so the pixels are split, by sizes alone: each split writes f32 sums to `partials`
// [splits, groups, group_out, kh kw group_in], and a second kernel adds those in their order. No atomics: the same
// bits on every run.

#include "conv2d.cuh"
#include "register_tile.cuh"
#include "tensor_core.cuh"

// gridDim = (elements / 256, splits). A split of 1 writes dfilter, others partials.
template <class T>
__device__ void naive(const Conv& c, u32 split_pixels, u64 count, const T* __restrict__ x, const T* __restrict__ dy,
                      T* __restrict__ dfilter, float* __restrict__ partials) {
    const u64 at = thread_index();
    if (at >= count) return;
    const u32 channels = c.groups * c.group_out, channels_x = c.groups * c.group_in;
    const u32 of_filter = c.kh * c.kw * c.group_in;  // elements
    const u32 filter = at / of_filter, in_filter = at - static_cast<u64>(filter) * of_filter;
    const u32 tap = c.by_group_in.quotient(in_filter), ky = c.by_kw.quotient(tap);
    const int dilated_y = ky * c.dilation[0] - c.padding[0];
    const int dilated_x = (tap - ky * c.kw) * c.dilation[1] - c.padding[1];
    x += filter / c.group_out * c.group_in + in_filter - tap * c.group_in;
    dy += filter;
    const u32 pixels = c.images * c.oh * c.ow, end = min(pixels, (blockIdx.y + 1) * split_pixels);
    float sum = 0.0f;
    for (u32 pixel = blockIdx.y * split_pixels; pixel < end; pixel++) {
        const u32 row = c.by_ow.quotient(pixel), image = c.by_oh.quotient(row);
        const int iy = (row - image * c.oh) * c.stride[0] + dilated_y;
        const int ix = (pixel - row * c.ow) * c.stride[1] + dilated_x;
        if (iy < 0 || iy >= c.h || ix < 0 || ix >= c.w) continue;
        const u64 at_x = (static_cast<u64>(image) * c.h + iy) * c.w + ix;
        sum = fmaf(load(x[at_x * channels_x]), load(dy[static_cast<u64>(pixel) * channels]), sum);
    }
    if (partials) {
        partials[blockIdx.y * count + at] = sum;
    } else {
        dfilter[at] = store<T>(sum);
    }
}

// The operands and the result of this block's group.
template <class T>
struct BackwardFilter {
    ColumnsOfK<T> a;
    TapsOfPixels<T> b;
    Output<T, PlainRows> out;

    __device__ BackwardFilter(const Gemm& g, const Conv& c, const Block& block, const T* x, const T* dy, T* dfilter,
                              float* partials)
        : a{dy + blockIdx.z * g.m, static_cast<u64>(c.groups) * g.m, g.m, block.k_end},
          b{x + blockIdx.z * c.group_in, c, g.n, block.k_end},
          out{dfilter, partials, nullptr, nullptr, 0, {static_cast<u64>(blockIdx.z) * g.m * g.n, g.n}} {}
};

#define PARAMETERS(T)                                                                                                \
    const __grid_constant__ Gemm g, const __grid_constant__ Conv c, const T *x, const T *dy, T *dfilter, float *partials

#define SIMPLE(T)                                                                                                    \
    extern "C" __global__ void conv2d_backward_filter_##T##_naive(const __grid_constant__ Conv c, u32 split_pixels,  \
                                                                  u64 count, const T* x, const T* dy, T* dfilter,    \
                                                                  float* partials) {                                 \
        naive(c, split_pixels, count, x, dy, dfilter, partials);                                                     \
    }                                                                                                                \
    extern "C" __global__ void conv2d_backward_filter_##T##_split_sum(                                               \
        u64 count, u32 splits, u32 n, const float* partials, const T* bias, T* dfilter) {                            \
        sum_splits(count, splits, n, partials, bias, dfilter);                                                       \
    }
SIMPLE(f32)
SIMPLE(f16)
SIMPLE(bf16)

#define REGISTER_TILE(name, BM, BN, BK, TM, TN, VECTOR)                                                              \
    extern "C" __global__ void __launch_bounds__(BM / TM*(BN / TN), 2)                                               \
        conv2d_backward_filter_f32_register_tile_##name(PARAMETERS(float)) {                                         \
        __shared__ RegisterTileShared<BM, BN, BK> shared;                                                            \
        const Block block = Block::of<BM, BN>(g);                                                                    \
        const BackwardFilter<float> f(g, c, block, x, dy, dfilter, partials);                                        \
        register_tile<BM, BN, BK, TM, TN, VECTOR>(g, block, f.a, f.b, f.out, shared);                                \
    }
REGISTER_TILE(128x128, 128, 128, 8, 8, 8, true)
REGISTER_TILE(64x64, 64, 64, 16, 8, 4, true)
REGISTER_TILE(32x128, 32, 128, 16, 4, 8, true)
REGISTER_TILE(32x128_any, 32, 128, 16, 4, 8, false)

#define TENSOR_CORE(T, name, BM, BN, WM, WN, STAGES, VECTOR)                                                         \
    extern "C" __global__ void __launch_bounds__(WM* WN * 32, 2)                                                     \
        conv2d_backward_filter_##T##_tensor_core_##name(PARAMETERS(T)) {                                             \
        typedef TensorCoreTile<T, BM, BN, WM, WN, STAGES> Tile;                                                      \
        __shared__ alignas(128) unsigned char shared[Tile::BYTES];                                                   \
        const Block block = Block::of<BM, BN>(g);                                                                    \
        const BackwardFilter<T> f(g, c, block, x, dy, dfilter, partials);                                            \
        tensor_core<T, Tile, VECTOR>(g, block, f.a, f.b, f.out, shared);                                             \
    }
#define TENSOR_CORES(T)                                                                                              \
    TENSOR_CORE(T, 128x128, 128, 128, 2, 4, 3, true)                                                                 \
    TENSOR_CORE(T, 64x64, 64, 64, 2, 2, 3, true)                                                                     \
    TENSOR_CORE(T, 32x128, 32, 128, 1, 4, 3, true)                                                                   \
    TENSOR_CORE(T, 32x128_any, 32, 128, 1, 4, 3, false)
TENSOR_CORES(f16)
TENSOR_CORES(bf16)
