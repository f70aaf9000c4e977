// Convolution backward, the gradient of x.  dx[image, iy, ix, ci] = Σ dy[image, oy, ox, co] filter[co, ky, kx, ci]
// over the (oy, ky) with oy * stride + ky * dilation - padding = iy, and so for x. Shapes and phases: conv2d.cuh.
//
//   conv2d_backward_data_<dtype>_naive                 one thread an element of dx               (read this first)
//   conv2d_backward_data_f32_register_tile_<tile>      implicit GEMM over one phase of dx, channels by float4
//   conv2d_backward_data_<16 bits>_tensor_core_<tile>  the same on tensor cores, channels by cp.async of 8
//   ..._any                                            channels one by one
//
// A block works on pixels of one phase, so no term of its sums is a zero between strides. The filter is read as it
// lies, [co][tap][ci] with ci contiguous: no transposed copy.

#include "conv2d.cuh"
#include "register_tile.cuh"
#include "tensor_core.cuh"

template <class T>
__device__ void naive(const Conv& c, u64 count, const T* __restrict__ filter, const T* __restrict__ dy,
                      T* __restrict__ dx) {
    const u64 at = thread_index();
    if (at >= count) return;
    const u32 channels = c.groups * c.group_out, channels_x = c.groups * c.group_in;
    const u32 pixel = at / channels_x, channel = at - static_cast<u64>(pixel) * channels_x;
    const u32 group = channel / c.group_in, ci = channel - group * c.group_in;
    const u32 row = pixel / c.w, image = row / c.h;
    const int iy = row - image * c.h, ix = pixel - row * c.w;
    dy += static_cast<u64>(image) * c.oh * c.ow * channels + group * c.group_out;
    const u64 taps = c.kh * c.kw * c.group_in;  // elements of one filter
    filter += group * c.group_out * taps + ci;
    float sum = 0.0f;
    for (int ky = 0; ky < c.kh; ky++) {
        const int y = iy + c.padding[0] - ky * c.dilation[0], oy = y / c.stride[0];
        if (y < 0 || oy * c.stride[0] != y || oy >= c.oh) continue;
        for (int kx = 0; kx < c.kw; kx++) {
            const int x = ix + c.padding[1] - kx * c.dilation[1], ox = x / c.stride[1];
            if (x < 0 || ox * c.stride[1] != x || ox >= c.ow) continue;
            const T* pixel_dy = dy + static_cast<u64>(oy * c.ow + ox) * channels;
            const T* tap = filter + (ky * c.kw + kx) * c.group_in;
            for (int co = 0; co < c.group_out; co++) sum = fmaf(load(pixel_dy[co]), load(tap[co * taps]), sum);
        }
    }
    dx[at] = store<T>(sum);
}

// The operands and the result of this block's group and phase, and the sizes of its product: phases differ in pixels
// and taps.
template <class T>
struct BackwardData {
    Gemm g;
    GatheredPixels<T> a;
    FilterByInput<T> b;
    Output<T, PixelRows> out;

    __device__ BackwardData(const Gemm& all, const Gathered& c, const GroupPhase& at, const T* filter, const T* dy,
                            T* dx)
        : BackwardData(all, c, c.y[at.y], c.x[at.x], at.group, filter, dy, dx) {}

    __device__ BackwardData(const Gemm& all, const Gathered& c, const ConvAxis& y, const ConvAxis& x, u32 group,
                            const T* filter, const T* dy, T* dx)
        : g{c.images * y.by_positions.divisor * x.by_positions.divisor,
            all.n,
            y.by_taps.divisor * x.by_taps.divisor * c.channels,
            1,
            0,
            all.vector_y},
          a{dy + group * c.channels, c, y, x, g.m, g.k},
          b{filter + static_cast<u64>(group) * c.channels * c.taps_h * c.taps_w * all.n, c, y, x, all.n, g.k},
          out{dx, nullptr, nullptr, nullptr, 0, {c, y, x, group * all.n}} {}

    // The tile of this block; the grid is made for the largest phase, so it may be none.
    template <int BM, int BN>
    __device__ Block block() const {
        Block block = Block::of<BM, BN>(g);
        block.k_begin = 0;
        block.k_end = g.k;
        return block;
    }

    template <int BM, int BN>
    __device__ bool has_block() const {
        return blockIdx.x < (g.m + BM - 1) / BM * ((g.n + BN - 1) / BN);
    }
};

#define PARAMETERS(T)                                                                                                \
    const __grid_constant__ Gemm g, const __grid_constant__ Gathered c, const T *filter, const T *dy, T *dx

#define NAIVE(T)                                                                                                     \
    extern "C" __global__ void conv2d_backward_data_##T##_naive(const __grid_constant__ Conv c, u64 count,           \
                                                                const T* filter, const T* dy, T* dx) {               \
        naive(c, count, filter, dy, dx);                                                                             \
    }
NAIVE(f32)
NAIVE(f16)
NAIVE(bf16)

#define REGISTER_TILE(name, BM, BN, BK, TM, TN, VECTOR)                                                              \
    extern "C" __global__ void __launch_bounds__(BM / TM*(BN / TN), 2)                                               \
        conv2d_backward_data_f32_register_tile_##name(PARAMETERS(float)) {                                           \
        __shared__ RegisterTileShared<BM, BN, BK> shared;                                                            \
        const BackwardData<float> b(g, c, GroupPhase::of(c), filter, dy, dx);                                        \
        if (!b.has_block<BM, BN>()) return;                                                                          \
        register_tile<BM, BN, BK, TM, TN, VECTOR>(b.g, b.block<BM, BN>(), b.a, b.b, b.out, shared);                  \
    }
REGISTER_TILE(128x64, 128, 64, 8, 8, 8, true)
REGISTER_TILE(128x32, 128, 32, 16, 8, 4, true)
REGISTER_TILE(128x32_any, 128, 32, 16, 8, 4, false)

#define TENSOR_CORE(T, name, BM, BN, WM, WN, STAGES, VECTOR)                                                         \
    extern "C" __global__ void __launch_bounds__(WM* WN * 32, 2)                                                     \
        conv2d_backward_data_##T##_tensor_core_##name(PARAMETERS(T)) {                                               \
        typedef TensorCoreTile<T, BM, BN, WM, WN, STAGES> Tile;                                                      \
        __shared__ alignas(128) unsigned char shared[Tile::BYTES];                                                   \
        const BackwardData<T> b(g, c, GroupPhase::of(c), filter, dy, dx);                                            \
        if (!b.template has_block<BM, BN>()) return;                                                                 \
        tensor_core<T, Tile, VECTOR>(b.g, b.template block<BM, BN>(), b.a, b.b, b.out, shared);                      \
    }
#define TENSOR_CORES(T)                                                                                              \
    TENSOR_CORE(T, 128x128, 128, 128, 2, 4, 3, true)                                                                 \
    TENSOR_CORE(T, 128x64, 128, 64, 2, 2, 3, true)                                                                   \
    TENSOR_CORE(T, 128x32, 128, 32, 4, 1, 3, true)                                                                   \
    TENSOR_CORE(T, 128x32_any, 128, 32, 4, 1, 3, false)
TENSOR_CORES(f16)
TENSOR_CORES(bf16)
