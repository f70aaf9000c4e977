// Convolution as an implicit GEMM: what the three passes share.
//
// x: [images, h, w, groups * group_in], filter: [groups * group_out, kh, kw, group_in], y: [images, oh, ow,
// groups * group_out]. No matrix of windows is ever written: a loader finds the element of x (or dy) that stands at
// row m and term k of that matrix when the tile is read.
//
//   pass              m                  n               k                    a                   b
//   forward           pixels of y        group_out       taps x group_in      x, gathered         filter, k-contiguous
//   backward data     pixels of dx       group_in        taps x group_out     dy, gathered        filter, n-contiguous
//   backward filter   group_out          taps x group_in pixels of y          dy, m-contiguous    x, gathered

#pragma once

#include "gemm.cuh"

// One axis of a gathered pass. Position i of the result's rows lies at `first + i * spread` of the result, and sees the
// source at i * scale + offset + j * step under its j-th tap, which is row (column) tap_first + j * tap_step of the
// filter.
//
// Forward: first 0, spread 1, scale stride, offset -padding, step dilation, all taps.
// Backward data cuts dx into phases, positions that are equal modulo the stride: those of a phase see the same taps (a
// stride-th of them; multiplying by the zeros between is what a naive transposed convolution does), and under those
// neighbouring positions see neighbouring dy: scale 1, spread stride, step -tap_step dilation / stride.
// `Walk` in kernels/src/cuda/conv2d/axis.rs makes the same words.
struct ConvAxis {
    int first, spread;
    int scale, offset, step;
    int size;  // of the source: what lies outside is zero
    int tap_first, tap_step;
    Divisor by_positions, by_taps;
};

enum { MAX_PHASES = 4 };

// The host's side is `gathered` in kernels/src/cuda/conv2d.rs.
struct Gathered {
    u32 images;
    u32 channels;         // of the source, a group: terms of k under one tap
    u32 source_channels;  // of the source, all groups
    u32 result_h, result_w, result_channels;
    u32 phases_y, phases_x;
    u32 taps_h, taps_w;  // of the filter
    Divisor by_channels;
    ConvAxis y[MAX_PHASES], x[MAX_PHASES];
};

// Which group and which phase a block works on. gridDim.z = groups * phases_y * phases_x.
struct GroupPhase {
    u32 group, y, x;

    static __device__ GroupPhase of(const Gathered& c) {
        const u32 rest = blockIdx.z / c.phases_x;
        return {rest / c.phases_y, rest % c.phases_y, blockIdx.z % c.phases_x};
    }
};

// Row m of the GEMM as (image, i, j).
struct Pixel {
    u32 image, i, j;

    static __device__ Pixel of(const ConvAxis& y, const ConvAxis& x, u32 m) {
        const u32 row = x.by_positions.quotient(m);
        const u32 image = y.by_positions.quotient(row);
        return {image, row - image * y.by_positions.divisor, m - row * x.by_positions.divisor};
    }
};

// A position that is outside of every image, whatever valid position is added to it. The host has checked that sizes
// with their padding are below 2^29.
enum : int { NOWHERE = -(1 << 30) };

// Whether (y, x) is in an image of these sizes: as unsigned numbers, negative positions are beyond the end too.
__device__ inline bool is_inside(int y, int x, int h, int w) {
    return static_cast<u32>(y) < static_cast<u32>(h) && static_cast<u32>(x) < static_cast<u32>(w);
}

// Operand a of forward and of backward data: source pixels under the taps, k = (tap, channel) with channels contiguous.
// Offsets of a pixel and of a tap are found apart, and added: the sum is the element's where the positions add up to
// one inside the image.
template <class T>
struct GatheredPixels {
    typedef T Element;
    enum { K_CONTIGUOUS = 1 };
    const T* x;  // the group's first channel
    const Gathered& c;
    const ConvAxis &axis_y, &axis_x;
    u32 extent, k_end;

    struct Place {
        long long offset;
        int y, x;  // source position under tap (0, 0)
    };
    typedef Place Step;  // distance from there under this tap, at this channel

    __device__ long long offset(int y, int x) const {
        return (static_cast<long long>(y) * axis_x.size + x) * c.source_channels;
    }
    __device__ Place place(u32 m) const {
        const Pixel p = Pixel::of(axis_y, axis_x, m);
        const int iy = static_cast<int>(p.i) * axis_y.scale + axis_y.offset;
        const int ix = static_cast<int>(p.j) * axis_x.scale + axis_x.offset;
        const long long image = static_cast<long long>(p.image) * axis_y.size * axis_x.size * c.source_channels;
        return {image + offset(iy, ix), m < extent ? iy : static_cast<int>(NOWHERE), ix};
    }
    __device__ Step step(u32 k) const {
        const u32 tap = c.by_channels.quotient(k), row = axis_x.by_taps.quotient(tap);
        const int dy = static_cast<int>(row) * axis_y.step;
        const int dx = static_cast<int>(tap - row * axis_x.by_taps.divisor) * axis_x.step;
        return {offset(dy, dx) + (k - tap * c.channels), k < k_end ? dy : static_cast<int>(NOWHERE), dx};
    }
    __device__ Address<T> at(const Place& p, const Step& s) const {
        return {x + (p.offset + s.offset), is_inside(p.y + s.y, p.x + s.x, axis_y.size, axis_x.size)};
    }
};

// Operand b of backward data: filter[group_out of k][tap of k][n], n contiguous.
template <class T>
struct FilterByInput {
    typedef T Element;
    enum { K_CONTIGUOUS = 0 };
    const T* x;  // the group's first filter
    const Gathered& c;
    const ConvAxis &axis_y, &axis_x;
    u32 extent, k_end;

    typedef u32 Place;
    struct Step {
        const T* row;
        u32 extent;  // 0 beyond the last k
    };
    __device__ Place place(u32 n) const { return n; }
    __device__ Step step(u32 k) const {
        const u32 tap = c.by_channels.quotient(k), row = axis_x.by_taps.quotient(tap);
        const u32 ky = axis_y.tap_first + row * axis_y.tap_step;
        const u32 kx = axis_x.tap_first + (tap - row * axis_x.by_taps.divisor) * axis_x.tap_step;
        const u32 channel = k - tap * c.channels;
        const u64 at = (static_cast<u64>(channel * c.taps_h + ky) * c.taps_w + kx) * extent;
        return {x + at, k < k_end ? extent : 0};
    }
    __device__ Address<T> at(Place n, const Step& s) const { return {s.row + n, n < s.extent}; }
};

// Rows of the result of a gathered pass: m = (image, i, j) of this phase.
struct PixelRows {
    const Gathered& c;
    const ConvAxis &axis_y, &axis_x;
    u64 start;  // the group's first channel

    __device__ u64 at(u32 m) const {
        const Pixel p = Pixel::of(axis_y, axis_x, m);
        const u32 y = axis_y.first + p.i * axis_y.spread, x = axis_x.first + p.j * axis_x.spread;
        return start + ((static_cast<u64>(p.image) * c.result_h + y) * c.result_w + x) * c.result_channels;
    }
};

// Sizes of backward filter and of the naive kernels. The host's side is `sizes` in conv2d.rs.
struct Conv {
    int images, h, w, oh, ow, kh, kw;
    int groups, group_in, group_out;
    int stride[2], padding[2], dilation[2];
    Divisor by_ow, by_oh, by_group_in, by_kw;
};

// Operand b of backward filter: x under tap n / group_in at output pixel k, n = (tap, channel) with channels
// contiguous.
template <class T>
struct TapsOfPixels {
    typedef T Element;
    enum { K_CONTIGUOUS = 0 };
    const T* x;  // the group's first channel
    const Conv& c;
    u32 extent, k_end;

    struct Place {
        long long offset;
        int y, x;  // distance from the window's first position, at this channel
    };
    typedef Place Step;  // the window's first position

    __device__ long long offset(int y, int x) const {
        return (static_cast<long long>(y) * c.w + x) * (c.groups * c.group_in);
    }
    __device__ Place place(u32 n) const {
        const int tap = c.by_group_in.quotient(n), row = c.by_kw.quotient(tap);
        const int dy = row * c.dilation[0], dx = (tap - row * c.kw) * c.dilation[1];
        const int channel = static_cast<int>(n) - tap * c.group_in;
        return {offset(dy, dx) + channel, n < extent ? dy : static_cast<int>(NOWHERE), dx};
    }
    __device__ Step step(u32 k) const {
        const u32 row = c.by_ow.quotient(k), image = c.by_oh.quotient(row);
        const int iy = static_cast<int>(row - image * c.oh) * c.stride[0] - c.padding[0];
        const int ix = static_cast<int>(k - row * c.ow) * c.stride[1] - c.padding[1];
        const long long first = static_cast<long long>(image) * c.h * c.w * (c.groups * c.group_in);
        return {first + offset(iy, ix), k < k_end ? iy : static_cast<int>(NOWHERE), ix};
    }
    __device__ Address<T> at(const Place& p, const Step& s) const {
        return {x + (p.offset + s.offset), is_inside(p.y + s.y, p.x + s.x, c.h, c.w)};
    }
};
