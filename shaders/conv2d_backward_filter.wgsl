// Convolution backward, the gradient of the filter.  dfilter[co, ky, kx, ci] = Σ dy[image, oy, ox, co] x[image, iy, ix,
// ci] over all images and output positions, with iy = oy * stride + ky * dilation - padding, and so for x. x: [images,
// h, w, groups * channels], dy: [images, oh, ow, groups * filters], dfilter: [groups * filters, kh, kw, channels].
//
//   conv2d_backward_filter_naive               one thread an element of dfilter                    (read this first)
//   conv2d_backward_filter_register_tile       8 filters x 8 elements of each a thread, by vec4
//   conv2d_backward_filter_register_tile_any   the same, number by number: for channels that are no multiple of 4
//   conv2d_backward_filter_split_sum           adds the sums of the parts, in order
//
// The GEMM has a row a filter, a column an element of one (tap and channel), and a term an output position: long sums
// of few results. So the lines of output positions are split into parts, which write sums of their own to `partials`.

alias Storage = f32;

override WORKGROUP: u32 = 64;

struct Params {
    groups: u32,
    filters: u32,  // of a group
    channels: u32,  // of x, a group
    kh: u32,
    kw: u32,
    h: u32,
    w: u32,
    oh: u32,
    ow: u32,
    stride_y: u32,
    stride_x: u32,
    padding_y: u32,
    padding_x: u32,
    dilation_y: u32,
    dilation_x: u32,
    lines: u32,  // of output positions, all images: images * oh
    splits: u32,  // parts of them, each with results of its own in `partials`
    split_lines: u32,  // lines of a part
    tiles_m: u32,
    tiles_n: u32,
}

// Each buffer twice, as numbers and as vectors of 4; an entry point uses one of the two.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Storage>;
@group(0) @binding(1) var<storage, read> x4: array<vec4<Storage>>;
@group(0) @binding(2) var<storage, read> dy: array<Storage>;
@group(0) @binding(2) var<storage, read> dy4: array<vec4<Storage>>;
@group(0) @binding(3) var<storage, read_write> dfilter: array<Storage>;
@group(0) @binding(3) var<storage, read_write> dfilter4: array<vec4<Storage>>;
@group(0) @binding(4) var<storage, read_write> partials: array<f32>;  // [splits, elements of dfilter]
@group(0) @binding(4) var<storage, read_write> partials4: array<vec4<f32>>;

fn thread_index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return (group.y * groups.x + group.x) * WORKGROUP + local;
}

// Elements of one filter: columns of the GEMM.
fn columns() -> u32 {
    return params.kh * params.kw * params.channels;
}

// What a thread computes: filters from the m-th of a group, their elements from the n-th, over lines [begin, end).
struct Tile {
    m: u32,
    n: u32,
    group: u32,
    split: u32,
    begin: u32,
    end: u32,
}

// Tile number `index`, columns fastest; its split is `params.splits` or more beyond the last one.
fn tile_of(index: u32, width: u32) -> Tile {
    let row = index / params.tiles_n;
    let product = row / params.tiles_m;
    let split = product / params.groups;
    let begin = split * params.split_lines;
    return Tile(
        (row - product * params.tiles_m) * width,
        (index - row * params.tiles_n) * width,
        product - split * params.groups,
        split,
        begin,
        min(params.lines, begin + params.split_lines),
    );
}

// Distance in x of 4 elements of a filter from the window's first position, and their channel.
struct Taps {
    dy: vec4<i32>,
    dx: vec4<i32>,
    channel: vec4<u32>,
}

fn taps(n: vec4<u32>) -> Taps {
    let tap = n / params.channels;
    let row = tap / params.kw;
    return Taps(
        vec4<i32>(row * params.dilation_y),
        vec4<i32>((tap - row * params.kw) * params.dilation_x),
        n - tap * params.channels,
    );
}

// A line of output positions: where it begins in dy (at this group), and the line of x under its first tap.
struct Line {
    dy: u32,
    image: u32,
    y: i32,
}

fn line_of(line: u32, group: u32) -> Line {
    let image = line / params.oh;
    let oy = line - image * params.oh;
    return Line(
        (line * params.ow * params.groups + group) * params.filters,
        image,
        i32(oy * params.stride_y) - i32(params.padding_y),
    );
}

// Where 4 elements of a filter begin in x on a line, and whether that line is one of x's.
struct Sources {
    start: vec4<u32>,
    exist: vec4<bool>,
}

fn sources(line: Line, t: Taps, group: u32) -> Sources {
    let iy = vec4<u32>(vec4<i32>(line.y) + t.dy);
    let row = vec4<u32>(line.image * params.h) + iy;
    let start = row * (params.w * params.groups * params.channels) + vec4<u32>(group * params.channels) + t.channel;
    return Sources(start, iy < vec4<u32>(params.h));
}

// Column of x under each of 4 elements at output column ox.
fn columns_at(ox: u32, t: Taps) -> vec4<u32> {
    return vec4<u32>(vec4<i32>(i32(ox * params.stride_x) - i32(params.padding_x)) + t.dx);
}

// Writes an element of a filter, or its sum over this part.
fn write1(tile: Tile, m: u32, n: u32, sum: f32) {
    if (m >= params.filters || n >= columns()) {
        return;
    }
    let at = (tile.group * params.filters + m) * columns() + n;
    if (params.splits > 1u) {
        partials[tile.split * (params.groups * params.filters * columns()) + at] = sum;
    } else {
        dfilter[at] = Storage(sum);
    }
}

@compute @workgroup_size(WORKGROUP)
fn conv2d_backward_filter_naive(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                                @builtin(local_invocation_index) local: u32) {
    let tile = tile_of(thread_index(group, groups, local), 1u);
    if (tile.split >= params.splits) {
        return;
    }
    let t = taps(vec4<u32>(tile.n));
    var sum = 0.0;
    for (var i = tile.begin; i < tile.end; i++) {
        let line = line_of(i, tile.group);
        let from_x = sources(line, t, tile.group);
        if (!from_x.exist.x) {
            continue;
        }
        for (var ox = 0u; ox < params.ow; ox++) {
            let ix = columns_at(ox, t).x;
            if (ix < params.w) {
                let in_x = from_x.start.x + ix * params.groups * params.channels;
                let in_dy = line.dy + ox * params.groups * params.filters + tile.m;
                sum += f32(x[in_x]) * f32(dy[in_dy]);
            }
        }
    }
    write1(tile, tile.m, tile.n, sum);
}

fn add_outer(c: mat4x4<f32>, a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(c[0] + a.x * b, c[1] + a.y * b, c[2] + a.z * b, c[3] + a.w * b);
}

// 4 neighbouring elements of a filter.
fn write4(tile: Tile, m: u32, n: u32, sums: vec4<f32>) {
    if (m >= params.filters || n >= columns()) {
        return;
    }
    let at = ((tile.group * params.filters + m) * columns() + n) / 4u;
    if (params.splits > 1u) {
        partials4[tile.split * (params.groups * params.filters * columns() / 4u) + at] = sums;
    } else {
        dfilter4[at] = vec4<Storage>(sums);
    }
}

fn write_block(tile: Tile, m: u32, n: u32, c: mat4x4<f32>) {
    write4(tile, m, n, c[0]);
    write4(tile, m + 1u, n, c[1]);
    write4(tile, m + 2u, n, c[2]);
    write4(tile, m + 3u, n, c[3]);
}

// 4 channels lie under one tap, so the two blocks of 4 columns are two lanes (x and y) of what is computed for 4.
@compute @workgroup_size(WORKGROUP)
fn conv2d_backward_filter_register_tile(@builtin(workgroup_id) group: vec3<u32>,
                                        @builtin(num_workgroups) groups: vec3<u32>,
                                        @builtin(local_invocation_index) local: u32) {
    let tile = tile_of(thread_index(group, groups, local), 8u);
    if (tile.split >= params.splits) {
        return;
    }
    let n1 = min(tile.n + 4u, columns() - 4u);
    let t = taps(vec4<u32>(tile.n, n1, tile.n, n1));
    let m1 = min(tile.m + 4u, params.filters - 4u);
    let step_x = params.groups * params.channels / 4u;
    let step_dy = params.groups * params.filters / 4u;
    var c00 = mat4x4<f32>();
    var c01 = mat4x4<f32>();
    var c10 = mat4x4<f32>();
    var c11 = mat4x4<f32>();
    for (var i = tile.begin; i < tile.end; i++) {
        let line = line_of(i, tile.group);
        let from_x = sources(line, t, tile.group);
        let start = from_x.start / 4u;
        var in_dy0 = (line.dy + tile.m) / 4u;
        var in_dy1 = (line.dy + m1) / 4u;
        for (var ox = 0u; ox < params.ow; ox++) {
            let ix = columns_at(ox, t);
            let inside = (ix < vec4<u32>(params.w)) & from_x.exist;
            let in_x = select(vec4<u32>(0u), start + ix * step_x, inside);
            let a0 = vec4<f32>(dy4[in_dy0]);
            let a1 = vec4<f32>(dy4[in_dy1]);
            let b0 = select(vec4<f32>(0.0), vec4<f32>(x4[in_x.x]), inside.x);
            let b1 = select(vec4<f32>(0.0), vec4<f32>(x4[in_x.y]), inside.y);
            c00 = add_outer(c00, a0, b0);
            c01 = add_outer(c01, a0, b1);
            c10 = add_outer(c10, a1, b0);
            c11 = add_outer(c11, a1, b1);
            in_dy0 += step_dy;
            in_dy1 += step_dy;
        }
    }
    write_block(tile, tile.m, tile.n, c00);
    write_block(tile, tile.m, tile.n + 4u, c01);
    write_block(tile, tile.m + 4u, tile.n, c10);
    write_block(tile, tile.m + 4u, tile.n + 4u, c11);
}

fn numbers_of_x(at: vec4<u32>, inside: vec4<bool>) -> vec4<f32> {
    return select(vec4<f32>(0.0), vec4<f32>(f32(x[at.x]), f32(x[at.y]), f32(x[at.z]), f32(x[at.w])), inside);
}

fn numbers_of_dy(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(f32(dy[at.x]), f32(dy[at.y]), f32(dy[at.z]), f32(dy[at.w]));
}

fn write1_row(tile: Tile, m: u32, n: u32, sums: vec4<f32>) {
    write1(tile, m, n, sums.x);
    write1(tile, m, n + 1u, sums.y);
    write1(tile, m, n + 2u, sums.z);
    write1(tile, m, n + 3u, sums.w);
}

fn write1_block(tile: Tile, m: u32, n: u32, c: mat4x4<f32>) {
    write1_row(tile, m, n, c[0]);
    write1_row(tile, m + 1u, n, c[1]);
    write1_row(tile, m + 2u, n, c[2]);
    write1_row(tile, m + 3u, n, c[3]);
}

@compute @workgroup_size(WORKGROUP)
fn conv2d_backward_filter_register_tile_any(@builtin(workgroup_id) group: vec3<u32>,
                                            @builtin(num_workgroups) groups: vec3<u32>,
                                            @builtin(local_invocation_index) local: u32) {
    let tile = tile_of(thread_index(group, groups, local), 8u);
    if (tile.split >= params.splits) {
        return;
    }
    let first = vec4<u32>(0u, 1u, 2u, 3u);
    let last_m = vec4<u32>(params.filters - 1u);
    let last_n = vec4<u32>(columns() - 1u);
    let m0 = min(vec4<u32>(tile.m) + first, last_m);
    let m1 = min(vec4<u32>(tile.m + 4u) + first, last_m);
    let t0 = taps(min(vec4<u32>(tile.n) + first, last_n));
    let t1 = taps(min(vec4<u32>(tile.n + 4u) + first, last_n));
    let step_x = params.groups * params.channels;
    let step_dy = params.groups * params.filters;
    var c00 = mat4x4<f32>();
    var c01 = mat4x4<f32>();
    var c10 = mat4x4<f32>();
    var c11 = mat4x4<f32>();
    for (var i = tile.begin; i < tile.end; i++) {
        let line = line_of(i, tile.group);
        let from_x0 = sources(line, t0, tile.group);
        let from_x1 = sources(line, t1, tile.group);
        var in_dy = vec4<u32>(line.dy);
        for (var ox = 0u; ox < params.ow; ox++) {
            let ix0 = columns_at(ox, t0);
            let ix1 = columns_at(ox, t1);
            let inside0 = (ix0 < vec4<u32>(params.w)) & from_x0.exist;
            let inside1 = (ix1 < vec4<u32>(params.w)) & from_x1.exist;
            let a0 = numbers_of_dy(in_dy + m0);
            let a1 = numbers_of_dy(in_dy + m1);
            let b0 = numbers_of_x(select(vec4<u32>(0u), from_x0.start + ix0 * step_x, inside0), inside0);
            let b1 = numbers_of_x(select(vec4<u32>(0u), from_x1.start + ix1 * step_x, inside1), inside1);
            c00 = add_outer(c00, a0, b0);
            c01 = add_outer(c01, a0, b1);
            c10 = add_outer(c10, a1, b0);
            c11 = add_outer(c11, a1, b1);
            in_dy += vec4<u32>(step_dy);
        }
    }
    write1_block(tile, tile.m, tile.n, c00);
    write1_block(tile, tile.m, tile.n + 4u, c01);
    write1_block(tile, tile.m + 4u, tile.n, c10);
    write1_block(tile, tile.m + 4u, tile.n + 4u, c11);
}

// One thread an element.
@compute @workgroup_size(WORKGROUP)
fn conv2d_backward_filter_split_sum(@builtin(workgroup_id) group: vec3<u32>,
                                    @builtin(num_workgroups) groups: vec3<u32>,
                                    @builtin(local_invocation_index) local: u32) {
    let at = thread_index(group, groups, local);
    let elements = params.groups * params.filters * columns();
    if (at >= elements) {
        return;
    }
    var sum = 0.0;
    for (var split = 0u; split < params.splits; split++) {
        sum += partials[split * elements + at];
    }
    dfilter[at] = Storage(sum);
}
