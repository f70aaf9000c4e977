// Pooling.  x, dx: [n, h, w, c]; y, dy, positions: [n, oh, ow, c].
//
//   max_pool2d_forward    y and the position iy * w + ix of the first maximum (NaN counts as largest)
//   max_pool2d_backward   dx = Σ of the dy whose maximum came from here
//   avg_pool2d_forward    mean of the window, padding left out
//   avg_pool2d_backward   dx = Σ of dy / (elements of its window)
//
// One thread an element of what is written, channels innermost, so that threads side by side read neighbours. The
// backward passes gather too: an element of x looks at the windows that cover it, row by row, and adds their shares
// in that order. So overlapping windows need no atomics. Limit: memory.

alias Storage = f32;

override WORKGROUP: u32 = 256;

struct Params {
    n: u32,
    h: u32,
    w: u32,
    c: u32,
    oh: u32,
    ow: u32,
    kernel_y: u32,
    kernel_x: u32,
    stride_y: u32,
    stride_x: u32,
    padding_y: u32,
    padding_x: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Storage>;
@group(0) @binding(2) var<storage, read_write> y: array<Storage>;
@group(0) @binding(3) var<storage, read_write> chosen: array<i32>;
@group(0) @binding(1) var<storage, read> dy: array<Storage>;
@group(0) @binding(2) var<storage, read_write> dx: array<Storage>;
@group(0) @binding(3) var<storage, read> positions: array<i32>;

// Number of this thread in a grid that may be folded into y.
fn thread_index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return (group.y * groups.x + group.x) * WORKGROUP + local;
}

// By its bits: compilers may assume that there is no NaN.
fn is_nan(v: f32) -> bool {
    return (bitcast<u32>(v) & 0x7FFFFFFFu) > 0x7F800000u;
}

// NaN counts as the largest number.
fn larger(a: f32, b: f32) -> bool {
    return (a > b && !is_nan(a) && !is_nan(b)) || (is_nan(a) && !is_nan(b));
}

// Made at run time: WGSL has no infinite constants.
fn negative_infinity() -> f32 {
    var bits = 0xFF800000u;
    return bitcast<f32>(bits);
}

// First and one past the last of the input positions along one axis that output position `o` covers, padding left
// out.
fn window(o: u32, kernel: u32, stride: u32, padding: u32, size: u32) -> vec2<u32> {
    let start = o * stride;
    let end = min(max(start + kernel, padding) - padding, size);
    return vec2<u32>(min(max(start, padding) - padding, end), end);
}

// The output positions along one axis whose windows cover input position `i`: those o with
// o stride <= i + padding < o stride + kernel.
fn covering(i: u32, kernel: u32, stride: u32, padding: u32, outputs: u32) -> vec2<u32> {
    let last = i + padding;
    var begin = 0u;
    if last >= kernel {
        begin = (last - kernel) / stride + 1u;
    }
    return vec2<u32>(begin, min(last / stride + 1u, outputs));
}

struct Place {
    image: u32,
    y: u32,
    x: u32,
    channel: u32,
}

fn place_of(index: u32, height: u32, width: u32) -> Place {
    let pixel = index / params.c;
    let row = pixel / width;
    let image = row / height;
    return Place(image, row - image * height, pixel - row * width, index - pixel * params.c);
}

fn rows_of(o: u32) -> vec2<u32> {
    return window(o, params.kernel_y, params.stride_y, params.padding_y, params.h);
}

fn columns_of(o: u32) -> vec2<u32> {
    return window(o, params.kernel_x, params.stride_x, params.padding_x, params.w);
}

@compute @workgroup_size(WORKGROUP)
fn max_pool2d_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = thread_index(group, groups, local);
    if i >= params.n * params.oh * params.ow * params.c {
        return;
    }
    let at = place_of(i, params.oh, params.ow);
    let rows = rows_of(at.y);
    let columns = columns_of(at.x);
    var best = negative_infinity();
    var position = rows.x * params.w + columns.x;  // a window of -inf points into itself
    for (var iy = rows.x; iy < rows.y; iy++) {
        for (var ix = columns.x; ix < columns.y; ix++) {
            let v = f32(x[((at.image * params.h + iy) * params.w + ix) * params.c + at.channel]);
            if larger(v, best) {
                best = v;
                position = iy * params.w + ix;
            }
        }
    }
    y[i] = Storage(best);
    chosen[i] = i32(position);
}

@compute @workgroup_size(WORKGROUP)
fn max_pool2d_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = thread_index(group, groups, local);
    if i >= params.n * params.h * params.w * params.c {
        return;
    }
    let at = place_of(i, params.h, params.w);
    let rows = covering(at.y, params.kernel_y, params.stride_y, params.padding_y, params.oh);
    let columns = covering(at.x, params.kernel_x, params.stride_x, params.padding_x, params.ow);
    let here = i32(at.y * params.w + at.x);
    var sum = 0.0;
    for (var oy = rows.x; oy < rows.y; oy++) {
        for (var ox = columns.x; ox < columns.y; ox++) {
            let output = ((at.image * params.oh + oy) * params.ow + ox) * params.c + at.channel;
            if positions[output] == here {
                sum += f32(dy[output]);
            }
        }
    }
    dx[i] = Storage(sum);
}

@compute @workgroup_size(WORKGROUP)
fn avg_pool2d_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = thread_index(group, groups, local);
    if i >= params.n * params.oh * params.ow * params.c {
        return;
    }
    let at = place_of(i, params.oh, params.ow);
    let rows = rows_of(at.y);
    let columns = columns_of(at.x);
    var sum = 0.0;
    for (var iy = rows.x; iy < rows.y; iy++) {
        for (var ix = columns.x; ix < columns.y; ix++) {
            sum += f32(x[((at.image * params.h + iy) * params.w + ix) * params.c + at.channel]);
        }
    }
    y[i] = Storage(sum / f32((rows.y - rows.x) * (columns.y - columns.x)));
}

@compute @workgroup_size(WORKGROUP)
fn avg_pool2d_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = thread_index(group, groups, local);
    if i >= params.n * params.h * params.w * params.c {
        return;
    }
    let at = place_of(i, params.h, params.w);
    let rows = covering(at.y, params.kernel_y, params.stride_y, params.padding_y, params.oh);
    let columns = covering(at.x, params.kernel_x, params.stride_x, params.padding_x, params.ow);
    var sum = 0.0;
    for (var oy = rows.x; oy < rows.y; oy++) {
        let height = rows_of(oy);
        for (var ox = columns.x; ox < columns.y; ox++) {
            let width = columns_of(ox);
            let elements = (height.y - height.x) * (width.y - width.x);
            let output = ((at.image * params.oh + oy) * params.ow + ox) * params.c + at.channel;
            sum += f32(dy[output]) / f32(elements);
        }
    }
    dx[i] = Storage(sum);
}
