// Reductions over any axes.  x: any shape; y: [outputs], one element for each position along the axes kept.
//
// Which elements of x make output o: x[kept(o) + reduced(r)] for r in 0..count. They are cut into `splits` chunks of
// `chunk` elements, by sizes alone, and each chunk gives one partial result, in f32:
//
//   reduce_rows       32 lanes a chunk: for reduced axes that lie innermost, lanes read neighbours
//   reduce_columns    32 outputs x 8 rows of threads a chunk: for kept axes that lie innermost
//
// y[split, o] is the result of a chunk; the host launches again over those until one is left. Sums have a fixed
// order and no atomics. `divisor` is applied at the end: the count for a mean, 1 otherwise.
//
//   argmax_rows             positions of the first maxima, 32 lanes an output
//   amax_ties_rows          how many elements equal the maximum, 32 lanes an output
//   sum_backward_broadcast  dx = dy / divisor, repeated
//   amax_backward_broadcast dx = dy / ties where x is the maximum
//
// A workgroup has one barrier; then one lane adds up what 32 (or 8) left, in their order: on software Vulkan barriers
// cost more than that. Limit: memory, one read of x.

alias Storage = f32;

const LANES: u32 = 32;
const ROWS: u32 = 8;
override WORKGROUP: u32 = 256;  // of the element by element kernels

// What is combined.
override OP: u32 = 0;
const SUM: u32 = 0;
const SUM_SQUARES: u32 = 1;
const AMAX: u32 = 2;

// A shape with the strides of one buffer, axis 0 outermost; rank is at least 1. Arrays in uniforms have elements of
// 16 bytes, hence the vectors. `Params::axes` in kernels/src/wgpu/params.rs has the same layout.
struct Axes {
    rank: u32,
    sizes: array<vec4<u32>, 2>,
    strides: array<vec4<u32>, 2>,
}

struct Params {
    outputs: u32,
    splits: u32,
    count: u32,
    chunk: u32,
    divisor: f32,
    kept: Axes,
    reduced: Axes,
}

struct Back {
    n: u32,
    divisor: f32,
    results: Axes,  // the shape of x, with stride 0 along the axes reduced
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(0) var<uniform> back: Back;
@group(0) @binding(1) var<storage, read> x: array<Storage>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> positions: array<i32>;
@group(0) @binding(2) var<storage, read> maximum: array<Storage>;
@group(0) @binding(3) var<storage, read_write> counts: array<f32>;
@group(0) @binding(3) var<storage, read> ties: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<Storage>;
@group(0) @binding(5) var<storage, read_write> dx: array<Storage>;

var<workgroup> partial: array<f32, 256>;
var<workgroup> partial_position: array<u32, 256>;

// Number of this thread in a grid that may be folded into y.
fn thread_index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return (group.y * groups.x + group.x) * WORKGROUP + local;
}

// Offset of element `index` of a row-major walk over `params.kept`.
fn kept_offset(index: u32) -> u32 {
    var rest = index;
    var sum = 0u;
    for (var axis = params.kept.rank - 1u; axis > 0u; axis--) {
        let size = params.kept.sizes[axis / 4u][axis % 4u];
        let quotient = rest / size;
        sum += (rest - quotient * size) * params.kept.strides[axis / 4u][axis % 4u];
        rest = quotient;
    }
    return sum + rest * params.kept.strides[0][0];
}

// Offset of element `index` of a row-major walk over `params.reduced`.
fn reduced_offset(index: u32) -> u32 {
    var rest = index;
    var sum = 0u;
    for (var axis = params.reduced.rank - 1u; axis > 0u; axis--) {
        let size = params.reduced.sizes[axis / 4u][axis % 4u];
        let quotient = rest / size;
        sum += (rest - quotient * size) * params.reduced.strides[axis / 4u][axis % 4u];
        rest = quotient;
    }
    return sum + rest * params.reduced.strides[0][0];
}

// Offset of element `index` of a row-major walk over `back.results`.
fn result_of(index: u32) -> u32 {
    var rest = index;
    var sum = 0u;
    for (var axis = back.results.rank - 1u; axis > 0u; axis--) {
        let size = back.results.sizes[axis / 4u][axis % 4u];
        let quotient = rest / size;
        sum += (rest - quotient * size) * back.results.strides[axis / 4u][axis % 4u];
        rest = quotient;
    }
    return sum + rest * back.results.strides[0][0];
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

// `yes` if `which`, else `no`; either may be NaN.
fn pick(no: f32, yes: f32, which: bool) -> f32 {
    return bitcast<f32>(select(bitcast<u32>(no), bitcast<u32>(yes), which));
}

fn identity() -> f32 {
    if OP == AMAX {
        return negative_infinity();
    }
    return 0.0;
}

fn combine(a: f32, b: f32) -> f32 {
    if OP == AMAX {
        return pick(a, b, larger(b, a));
    }
    return a + b;
}

fn mapped(v: f32) -> f32 {
    if OP == SUM_SQUARES {
        return v * v;
    }
    return v;
}

@compute @workgroup_size(256)
fn reduce_rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    // Task number `task` is split task / outputs of output task % outputs.
    let lane = local % LANES;
    let task = (group.y * groups.x + group.x) * ROWS + local / LANES;
    var v = identity();
    if task < params.outputs * params.splits {
        let split = task / params.outputs;
        let row = kept_offset(task - split * params.outputs);
        let end = min(params.count, (split + 1u) * params.chunk);
        for (var r = split * params.chunk + lane; r < end; r += LANES) {
            v = combine(v, mapped(f32(x[row + reduced_offset(r)])));
        }
    }
    partial[local] = v;
    workgroupBarrier();
    if lane == 0u && task < params.outputs * params.splits {
        for (var other = 1u; other < LANES; other++) {
            v = combine(v, partial[local + other]);
        }
        y[task] = v / params.divisor;
    }
}

@compute @workgroup_size(256)
fn reduce_columns(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    // Workgroup number `tile` is split tile / tiles of 32 neighbouring outputs.
    let tiles = (params.outputs + LANES - 1u) / LANES;
    let tile = group.y * groups.x + group.x;
    let split = tile / tiles;
    let output = (tile - split * tiles) * LANES + local % LANES;
    var v = identity();
    if output < params.outputs && split < params.splits {
        let column = kept_offset(output);
        let end = min(params.count, (split + 1u) * params.chunk);
        for (var r = split * params.chunk + local / LANES; r < end; r += ROWS) {
            v = combine(v, mapped(f32(x[column + reduced_offset(r)])));
        }
    }
    partial[local] = v;
    workgroupBarrier();
    if local < LANES && output < params.outputs && split < params.splits {
        for (var row = 1u; row < ROWS; row++) {
            v = combine(v, partial[row * LANES + local]);
        }
        y[split * params.outputs + output] = v / params.divisor;
    }
}

// The better one is larger, or as large and earlier.
fn is_better(value: f32, position: u32, than: f32, than_position: u32) -> bool {
    return larger(value, than) || (!larger(than, value) && position < than_position);
}

@compute @workgroup_size(256)
fn argmax_rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let lane = local % LANES;
    let output = (group.y * groups.x + group.x) * ROWS + local / LANES;
    var best = negative_infinity();
    var best_position = 0xFFFFFFFFu;  // worse than any element
    if output < params.outputs {
        let row = kept_offset(output);
        for (var r = lane; r < params.count; r += LANES) {
            let v = f32(x[row + reduced_offset(r)]);
            if is_better(v, r, best, best_position) {
                best = v;
                best_position = r;
            }
        }
    }
    partial[local] = best;
    partial_position[local] = best_position;
    workgroupBarrier();
    if lane == 0u && output < params.outputs {
        for (var other = local + 1u; other < local + LANES; other++) {
            if is_better(partial[other], partial_position[other], best, best_position) {
                best = partial[other];
                best_position = partial_position[other];
            }
        }
        positions[output] = i32(best_position);
    }
}

fn is_maximum(x: f32, y: f32) -> bool {
    return !larger(x, y) && !larger(y, x);
}

@compute @workgroup_size(256)
fn amax_ties_rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let lane = local % LANES;
    let output = (group.y * groups.x + group.x) * ROWS + local / LANES;
    var found = 0u;
    if output < params.outputs {
        let row = kept_offset(output);
        let m = f32(maximum[output]);
        for (var r = lane; r < params.count; r += LANES) {
            found += u32(is_maximum(f32(x[row + reduced_offset(r)]), m));
        }
    }
    partial_position[local] = found;
    workgroupBarrier();
    if lane == 0u && output < params.outputs {
        for (var other = 1u; other < LANES; other++) {
            found += partial_position[local + other];
        }
        counts[output] = f32(found);
    }
}

@compute @workgroup_size(WORKGROUP)
fn sum_backward_broadcast(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = thread_index(group, groups, local);
    if i < back.n {
        dx[i] = Storage(f32(dy[result_of(i)]) / back.divisor);
    }
}

@compute @workgroup_size(WORKGROUP)
fn amax_backward_broadcast(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = thread_index(group, groups, local);
    if i >= back.n {
        return;
    }
    let r = result_of(i);
    var result = 0.0;
    if is_maximum(f32(x[i]), f32(maximum[r])) {
        result = f32(dy[r]) / ties[r];
    }
    dx[i] = Storage(result);
}
