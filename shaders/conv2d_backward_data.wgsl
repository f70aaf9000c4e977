// Convolution backward, the gradient of x.  dx[image, iy, ix, ci] = Σ dy[image, oy, ox, co] filter[co, ky, kx, ci]
// over the (oy, ky) with oy * stride + ky * dilation - padding = iy, and so for x. dx: [images, h, w, groups *
// columns], dy: [images, oh, ow, groups * channels], filter: [groups * channels, kh, kw, columns].
//
//   conv2d_backward_data_naive               one thread an element of dx                           (read this first)
//   conv2d_backward_data_register_tile       implicit GEMM over one phase, 8 pixels x 8 channels a thread, by vec4
//   conv2d_backward_data_register_tile_any   the same, channels one by one
//
// A launch makes one phase of dx: the positions that are equal modulo the stride. They see the same taps, a stride-th
// of them, so no term of a sum is a zero between strides. The filter is read as it lies: no transposed copy.

alias Storage = f32;

override WORKGROUP: u32 = 64;

// One axis. Position i of the result's rows lies at first + i * spread of the result, and sees the source at
// i * scale + offset + j * step under its j-th tap, which is row (column) tap_first + j * tap_step of the filter.
// `Walk` in kernels/src/walk.rs makes the numbers.
struct Axis {
    positions: u32,
    first: u32,
    spread: u32,
    scale: u32,
    offset: i32,
    step: i32,
    size: u32,  // of the source: what lies outside is zero
    taps: u32,
    tap_first: u32,
    tap_step: u32,
    unused0: u32,  // a struct in a uniform is a multiple of 16 bytes
    unused1: u32,
}

struct Params {
    y: Axis,
    x: Axis,
    pixels: u32,  // of this phase, all images
    groups: u32,
    channels: u32,  // of dy, a group
    columns: u32,  // channels of dx, a group
    result_h: u32,
    result_w: u32,
    taps_h: u32,  // of the filter
    taps_w: u32,
    tiles_m: u32,
    tiles_n: u32,
}

// Each buffer twice, as numbers and as vectors of 4; an entry point uses one of the two.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<Storage>;
@group(0) @binding(1) var<storage, read> dy4: array<vec4<Storage>>;
@group(0) @binding(2) var<storage, read> filters: array<Storage>;
@group(0) @binding(2) var<storage, read> filters4: array<vec4<Storage>>;
@group(0) @binding(3) var<storage, read_write> dx: array<Storage>;
@group(0) @binding(3) var<storage, read_write> dx4: array<vec4<Storage>>;

// What a thread computes: 8 pixels and 8 channels of a group, from the m-th and the n-th on.
struct Tile {
    m: u32,
    n: u32,
    group: u32,
}

// Tile number `index`, columns fastest; its group is `params.groups` or more beyond the last one.
fn tile_of(index: u32) -> Tile {
    let row = index / params.tiles_n;
    let group = row / params.tiles_m;
    return Tile((row - group * params.tiles_m) * 8u, (index - row * params.tiles_n) * 8u, group);
}

fn group_index(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}

// 4 pixels of the result: where their channels of this group begin in it, and what they see of the source.
struct Pixels {
    result: vec4<u32>,
    source: vec4<u32>,  // the image's first element of the group
    y: vec4<i32>,  // source position under tap (0, 0)
    x: vec4<i32>,
    exists: vec4<bool>,
}

fn pixels(group: u32, first: u32) -> Pixels {
    let wanted = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u);
    let m = min(wanted, vec4<u32>(params.pixels - 1u));
    let row = m / params.x.positions;
    let j = m - row * params.x.positions;
    let image = row / params.y.positions;
    let i = row - image * params.y.positions;
    let line = image * params.result_h + vec4<u32>(params.y.first) + i * params.y.spread;
    let pixel = line * params.result_w + vec4<u32>(params.x.first) + j * params.x.spread;
    return Pixels(
        pixel * (params.groups * params.columns) + vec4<u32>(group * params.columns),
        image * (params.y.size * params.x.size * params.groups * params.channels)
            + vec4<u32>(group * params.channels),
        vec4<i32>(i * params.y.scale) + vec4<i32>(params.y.offset),
        vec4<i32>(j * params.x.scale) + vec4<i32>(params.x.offset),
        wanted < vec4<u32>(params.pixels),
    );
}

// Which of the pixels see the source at this distance from tap (0, 0): as unsigned numbers, negative positions are
// beyond the end too.
fn are_inside(p: Pixels, dy: i32, dx: i32) -> vec4<bool> {
    let y = vec4<u32>(p.y + vec4<i32>(dy)) < vec4<u32>(params.y.size);
    let x = vec4<u32>(p.x + vec4<i32>(dx)) < vec4<u32>(params.x.size);
    return y & x;
}

// Where they see it; 0 for those that do not.
fn positions(p: Pixels, dy: i32, dx: i32, inside: vec4<bool>) -> vec4<u32> {
    let y = vec4<u32>(p.y + vec4<i32>(dy));
    let x = vec4<u32>(p.x + vec4<i32>(dx));
    let at = p.source + (y * params.x.size + x) * (params.groups * params.channels);
    return select(vec4<u32>(0u), at, inside);
}

// Elements from one filter to the next.
fn filter_size() -> u32 {
    return params.taps_h * params.taps_w * params.columns;
}

// Where channel n of the group lies in its first filter under the i-th tap down and the j-th across.
fn tap_of(group: u32, i: u32, j: u32, n: u32) -> u32 {
    let row = params.y.tap_first + i * params.y.tap_step;
    let column = params.x.tap_first + j * params.x.tap_step;
    let line = group * params.channels * params.taps_h + row;
    return (line * params.taps_w + column) * params.columns + n;
}

@compute @workgroup_size(WORKGROUP)
fn conv2d_backward_data_naive(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                              @builtin(local_invocation_index) local: u32) {
    let index = group_index(group, groups) * WORKGROUP + local;
    let channels_x = params.groups * params.columns;
    let m = index / channels_x;
    let channel = index - m * channels_x;
    if (m >= params.pixels) {
        return;
    }
    let own = channel / params.columns;
    let n = channel - own * params.columns;
    let p = pixels(own, m);
    var sum = 0.0;
    for (var i = 0u; i < params.y.taps; i++) {
        for (var j = 0u; j < params.x.taps; j++) {
            let down = i32(i) * params.y.step;
            let across = i32(j) * params.x.step;
            let inside = are_inside(p, down, across);
            if (!inside.x) {
                continue;
            }
            let from_dy = positions(p, down, across, inside).x;
            let from_filter = tap_of(own, i, j, n);
            for (var c = 0u; c < params.channels; c++) {
                sum += f32(dy[from_dy + c]) * f32(filters[from_filter + c * filter_size()]);
            }
        }
    }
    dx[p.result.x + n] = Storage(sum);
}

// c + a b, with c[i] row i of the result, and column q of both a and b the q-th term.
fn multiply_add(c: mat4x4<f32>, a: mat4x4<f32>, b: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        c[0] + a[0].x * b[0] + a[1].x * b[1] + a[2].x * b[2] + a[3].x * b[3],
        c[1] + a[0].y * b[0] + a[1].y * b[1] + a[2].y * b[2] + a[3].y * b[3],
        c[2] + a[0].z * b[0] + a[1].z * b[1] + a[2].z * b[2] + a[3].z * b[3],
        c[3] + a[0].w * b[0] + a[1].w * b[1] + a[2].w * b[2] + a[3].w * b[3],
    );
}

fn add_outer(c: mat4x4<f32>, a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(c[0] + a.x * b, c[1] + a.y * b, c[2] + a.z * b, c[3] + a.w * b);
}

// 4 pixels x 4 channels of the source: column q holds channel q of all pixels. `at` is in vectors.
fn block_of_source(at: vec4<u32>, inside: vec4<bool>) -> mat4x4<f32> {
    let zero = vec4<f32>(0.0);
    return transpose(mat4x4<f32>(
        select(zero, vec4<f32>(dy4[at.x]), inside.x),
        select(zero, vec4<f32>(dy4[at.y]), inside.y),
        select(zero, vec4<f32>(dy4[at.z]), inside.z),
        select(zero, vec4<f32>(dy4[at.w]), inside.w),
    ));
}

// One channel of 4 pixels.
fn numbers_of_source(at: vec4<u32>, inside: vec4<bool>) -> vec4<f32> {
    let v = vec4<f32>(f32(dy[at.x]), f32(dy[at.y]), f32(dy[at.z]), f32(dy[at.w]));
    return select(vec4<f32>(0.0), v, inside);
}

// 4 neighbouring channels of dx in 4 filters: column q holds those of filter q.
fn block_of_filters(at: u32, step: u32) -> mat4x4<f32> {
    return mat4x4<f32>(vec4<f32>(filters4[at]), vec4<f32>(filters4[at + step]), vec4<f32>(filters4[at + 2u * step]),
                       vec4<f32>(filters4[at + 3u * step]));
}

// 4 neighbouring channels of a pixel.
fn write4(exists: bool, start: u32, n: u32, sums: vec4<f32>) {
    if (exists && n < params.columns) {
        dx4[(start + n) / 4u] = vec4<Storage>(sums);
    }
}

fn write_block(p: Pixels, n: u32, c: mat4x4<f32>) {
    write4(p.exists.x, p.result.x, n, c[0]);
    write4(p.exists.y, p.result.y, n, c[1]);
    write4(p.exists.z, p.result.z, n, c[2]);
    write4(p.exists.w, p.result.w, n, c[3]);
}

@compute @workgroup_size(WORKGROUP)
fn conv2d_backward_data_register_tile(@builtin(workgroup_id) group: vec3<u32>,
                                      @builtin(num_workgroups) groups: vec3<u32>,
                                      @builtin(local_invocation_index) local: u32) {
    let tile = tile_of(group_index(group, groups) * WORKGROUP + local);
    if (tile.group >= params.groups) {
        return;
    }
    let p0 = pixels(tile.group, tile.m);
    let p1 = pixels(tile.group, tile.m + 4u);
    let n1 = min(tile.n + 4u, params.columns - 4u);
    let step = filter_size() / 4u;
    var c00 = mat4x4<f32>();
    var c01 = mat4x4<f32>();
    var c10 = mat4x4<f32>();
    var c11 = mat4x4<f32>();
    for (var i = 0u; i < params.y.taps; i++) {
        for (var j = 0u; j < params.x.taps; j++) {
            let down = i32(i) * params.y.step;
            let across = i32(j) * params.x.step;
            let inside0 = are_inside(p0, down, across);
            let inside1 = are_inside(p1, down, across);
            var at0 = positions(p0, down, across, inside0) / 4u;
            var at1 = positions(p1, down, across, inside1) / 4u;
            var at_f0 = tap_of(tile.group, i, j, tile.n) / 4u;
            var at_f1 = tap_of(tile.group, i, j, n1) / 4u;
            for (var c = 0u; c < params.channels; c += 4u) {
                let a0 = block_of_source(at0, inside0);
                let a1 = block_of_source(at1, inside1);
                let b0 = block_of_filters(at_f0, step);
                let b1 = block_of_filters(at_f1, step);
                c00 = multiply_add(c00, a0, b0);
                c01 = multiply_add(c01, a0, b1);
                c10 = multiply_add(c10, a1, b0);
                c11 = multiply_add(c11, a1, b1);
                at0 += vec4<u32>(1u);
                at1 += vec4<u32>(1u);
                at_f0 += 4u * step;
                at_f1 += 4u * step;
            }
        }
    }
    write_block(p0, tile.n, c00);
    write_block(p0, tile.n + 4u, c01);
    write_block(p1, tile.n, c10);
    write_block(p1, tile.n + 4u, c11);
}

fn numbers_of_filters(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(f32(filters[at.x]), f32(filters[at.y]), f32(filters[at.z]), f32(filters[at.w]));
}

fn write1(exists: bool, start: u32, n: u32, sum: f32) {
    if (exists && n < params.columns) {
        dx[start + n] = Storage(sum);
    }
}

fn write1_row(exists: bool, start: u32, n: u32, sums: vec4<f32>) {
    write1(exists, start, n, sums.x);
    write1(exists, start, n + 1u, sums.y);
    write1(exists, start, n + 2u, sums.z);
    write1(exists, start, n + 3u, sums.w);
}

fn write1_block(p: Pixels, n: u32, c: mat4x4<f32>) {
    write1_row(p.exists.x, p.result.x, n, c[0]);
    write1_row(p.exists.y, p.result.y, n, c[1]);
    write1_row(p.exists.z, p.result.z, n, c[2]);
    write1_row(p.exists.w, p.result.w, n, c[3]);
}

@compute @workgroup_size(WORKGROUP)
fn conv2d_backward_data_register_tile_any(@builtin(workgroup_id) group: vec3<u32>,
                                          @builtin(num_workgroups) groups: vec3<u32>,
                                          @builtin(local_invocation_index) local: u32) {
    let tile = tile_of(group_index(group, groups) * WORKGROUP + local);
    if (tile.group >= params.groups) {
        return;
    }
    let p0 = pixels(tile.group, tile.m);
    let p1 = pixels(tile.group, tile.m + 4u);
    let last = vec4<u32>(params.columns - 1u);
    let n0 = min(vec4<u32>(tile.n) + vec4<u32>(0u, 1u, 2u, 3u), last);
    let n1 = min(vec4<u32>(tile.n) + vec4<u32>(4u, 5u, 6u, 7u), last);
    let step = vec4<u32>(filter_size());
    var c00 = mat4x4<f32>();
    var c01 = mat4x4<f32>();
    var c10 = mat4x4<f32>();
    var c11 = mat4x4<f32>();
    for (var i = 0u; i < params.y.taps; i++) {
        for (var j = 0u; j < params.x.taps; j++) {
            let down = i32(i) * params.y.step;
            let across = i32(j) * params.x.step;
            let inside0 = are_inside(p0, down, across);
            let inside1 = are_inside(p1, down, across);
            var at0 = positions(p0, down, across, inside0);
            var at1 = positions(p1, down, across, inside1);
            let at_f = vec4<u32>(tap_of(tile.group, i, j, 0u));
            var at_f0 = at_f + n0;
            var at_f1 = at_f + n1;
            for (var c = 0u; c < params.channels; c++) {
                let a0 = numbers_of_source(at0, inside0);
                let a1 = numbers_of_source(at1, inside1);
                let b0 = numbers_of_filters(at_f0);
                let b1 = numbers_of_filters(at_f1);
                c00 = add_outer(c00, a0, b0);
                c01 = add_outer(c01, a0, b1);
                c10 = add_outer(c10, a1, b0);
                c11 = add_outer(c11, a1, b1);
                at0 += vec4<u32>(1u);
                at1 += vec4<u32>(1u);
                at_f0 += step;
                at_f1 += step;
            }
        }
    }
    write1_block(p0, tile.n, c00);
    write1_block(p0, tile.n + 4u, c01);
    write1_block(p1, tile.n, c10);
    write1_block(p1, tile.n + 4u, c11);
}
