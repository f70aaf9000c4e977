// Convolution as an implicit GEMM: what the three passes share.
//
// x: [images, h, w, groups * group_in], filter: [groups * group_out, kh, kw, group_in], y: [images, oh, ow,
// groups * group_out]. No matrix of windows is ever written: a loader finds the element of x (or dy) that stands at row m
// and term k of that matrix when the tile is read.
//
//   pass              m                  n               k                    a                   b
//   forward           pixels of y        group_out       taps x group_in      x, gathered         filter, k-contiguous
//   backward data     pixels of dx       group_in        taps x group_out     dy, gathered        filter, n-contiguous
//   backward filter   group_out          taps x group_in pixels of y          dy, m-contiguous    x, gathered, n-contiguous

#pragma once

#include "gemm.cuh"

// One axis of a gathered pass. Position i of the result's rows lies at `first + i * spread` of the result, and sees the
// source at i * scale + offset + j * step under its j-th tap, which is row (column) tap_first + j * tap_step of the filter.
//
// Forward: first 0, spread 1, scale stride, offset -padding, step dilation, all taps.
// Backward data cuts dx into phases, positions that are equal modulo the stride: those of a phase see the same taps (a
// stride-th of them; multiplying by the zeros between is what a naive transposed convolution does), and under those
// neighbouring positions see neighbouring dy: scale 1, spread stride, step -tap_step dilation / stride.
// `Axis` in kernels/src/cuda/conv2d.rs has the same layout.
struct ConvAxis {
    int first, spread;
    int scale, offset, step;
    int size;  // of the source: what lies outside is zero
    int tap_first, tap_step;
    Divisor by_positions, by_taps;
};

enum { MAX_PHASES = 4 };

// `Gathered` in conv2d.rs has the same layout.
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

// Operand a of forward and of backward data: source pixels under the taps, k = (tap, channel) with channels contiguous.
template <class T>
struct GatheredPixels {
    typedef T Element;
    enum { K_CONTIGUOUS = 1 };
    const T* x;  // the group's first channel
    const Gathered& c;
    const ConvAxis &axis_y, &axis_x;
    u32 extent, k_end;

    struct Place {
        const T* image;  // null beyond the last row
        int y, x;        // source position under tap (0, 0)
    };
    struct Step {
        int y, x;  // distance from there under this tap
        int channel;  // -1 beyond the last k
    };

    __device__ Place place(u32 m) const {
        if (m >= extent) return {nullptr, 0, 0};
        const Pixel p = Pixel::of(axis_y, axis_x, m);
        const u64 image = static_cast<u64>(p.image) * axis_y.size * axis_x.size * c.source_channels;
        return {x + image, static_cast<int>(p.i) * axis_y.scale + axis_y.offset,
                static_cast<int>(p.j) * axis_x.scale + axis_x.offset};
    }
    __device__ Step step(u32 k) const {
        if (k >= k_end) return {0, 0, -1};
        const u32 tap = c.by_channels.quotient(k), row = axis_x.by_taps.quotient(tap);
        return {static_cast<int>(row) * axis_y.step, static_cast<int>(tap - row * axis_x.by_taps.divisor) * axis_x.step,
                static_cast<int>(k - tap * c.channels)};
    }
    __device__ const T* at(const Place& p, const Step& s) const {
        const int iy = p.y + s.y, ix = p.x + s.x;
        // As unsigned numbers, negative positions are beyond the end too.
        const bool inside = p.image && s.channel >= 0 && static_cast<u32>(iy) < static_cast<u32>(axis_y.size) &&
                            static_cast<u32>(ix) < static_cast<u32>(axis_x.size);
        if (!inside) return nullptr;
        return p.image + static_cast<u64>(static_cast<u32>(iy * axis_x.size + ix)) * c.source_channels + s.channel;
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
    typedef const T* Step;
    __device__ Place place(u32 n) const { return n; }
    __device__ Step step(u32 k) const {
        if (k >= k_end) return nullptr;
        const u32 tap = c.by_channels.quotient(k), row = axis_x.by_taps.quotient(tap);
        const u32 ky = axis_y.tap_first + row * axis_y.tap_step;
        const u32 kx = axis_x.tap_first + (tap - row * axis_x.by_taps.divisor) * axis_x.tap_step;
        const u32 channel = k - tap * c.channels;
        return x + (static_cast<u64>(channel * c.taps_h + ky) * c.taps_w + kx) * extent;
    }
    __device__ const T* at(Place n, Step row) const { return row && n < extent ? row + n : nullptr; }
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

// Sizes of backward filter and of the naive kernels. `Conv` in conv2d.rs has the same layout.
struct Conv {
    int images, h, w, oh, ow, kh, kw;
    int groups, group_in, group_out;
    int stride[2], padding[2], dilation[2];
    Divisor by_ow, by_oh, by_group_in, by_kw;
};

// Operand b of backward filter: x under tap n / group_in at output pixel k, n = (tap, channel) with channels contiguous.
template <class T>
struct TapsOfPixels {
    typedef T Element;
    enum { K_CONTIGUOUS = 0 };
    const T* x;  // the group's first channel
    const Conv& c;
    u32 extent, k_end;

    struct Place {
        int y, x;     // distance from the window's first position
        int channel;  // -1 beyond the last n
    };
    struct Step {
        const T* image;  // null beyond the last k
        int y, x;        // the window's first position
    };

    __device__ Place place(u32 n) const {
        if (n >= extent) return {0, 0, -1};
        const int tap = c.by_group_in.quotient(n), row = c.by_kw.quotient(tap);
        return {row * c.dilation[0], (tap - row * c.kw) * c.dilation[1], static_cast<int>(n) - tap * c.group_in};
    }
    __device__ Step step(u32 k) const {
        if (k >= k_end) return {nullptr, 0, 0};
        const u32 row = c.by_ow.quotient(k), image = c.by_oh.quotient(row);
        const int oy = row - image * c.oh, ox = k - row * c.ow;
        const u64 first = static_cast<u64>(image) * c.h * c.w * c.groups * c.group_in;
        return {x + first, oy * c.stride[0] - c.padding[0], ox * c.stride[1] - c.padding[1]};
    }
    __device__ const T* at(const Place& p, const Step& s) const {
        const int iy = p.y + s.y, ix = p.x + s.x;
        const bool inside = s.image && p.channel >= 0 && static_cast<u32>(iy) < static_cast<u32>(c.h) &&
                            static_cast<u32>(ix) < static_cast<u32>(c.w);
        if (!inside) return nullptr;
        return s.image + static_cast<u64>(static_cast<u32>(iy * c.w + ix)) * (c.groups * c.group_in) + p.channel;
    }
};
